"""The choice is the one of greatest likelihood, counted by hand."""

from typing import Any

import pytest
import torch

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.errors import InputError
from open_mythos.eval.choices import Question, score_choices
from open_mythos.model.mythos import OpenMythos


@torch.no_grad()
def said(model: Any, text: str, choice: str, n_loops: int) -> float:
    ids = torch.tensor([list((text + choice).encode())])
    logits = model(ids, n_loops)[0].double().log_softmax(-1)
    start = len(text.encode())
    return sum(float(logits[t - 1, ids[0, t]]) for t in range(start, ids.shape[1]))


def test_accuracy_is_by_likelihood_and_per_character(tiny_config: Any, randomised: Any) -> None:
    model = randomised(OpenMythos(tiny_config(vocab_size=257))).eval()
    texts, choices = ["ab", "cd e", "x"], (" a", " bcd", " efghijk")
    most = [max(range(3), key=lambda i: said(model, t, choices[i], 2)) for t in texts]
    per = [
        max(range(3), key=lambda i: said(model, t, choices[i], 2) / len(choices[i])) for t in texts
    ]
    for answers in (most, per, [0, 1, 2]):
        asked = [Question(t, choices, a) for t, a in zip(texts, answers, strict=True)]
        found = score_choices(model, ByteTokenizer(), asked, 2)
        hits = sum(a == b for a, b in zip(answers, most, strict=True))
        assert found.accuracy == pytest.approx(hits / 3)
        hits = sum(a == b for a, b in zip(answers, per, strict=True))
        assert found.accuracy_per_character == pytest.approx(hits / 3)
        assert (found.n, found.n_loops) == (3, 2)


def test_of_equals_the_first_is_taken(tiny_config: Any) -> None:
    model = OpenMythos(tiny_config(vocab_size=257))
    with torch.no_grad():
        model.embed.weight.zero_()
    asked = [Question("a", (" x", " y"), 0), Question("a", (" x", " y"), 1)]
    assert score_choices(model, ByteTokenizer(), asked).accuracy == 0.5


def test_impossible_questions_are_refused(tiny_config: Any) -> None:
    with pytest.raises(InputError, match="answer is 2"):
        Question("a", ("b", "c"), 2)
    with pytest.raises(InputError, match="empty"):
        Question("a", ("b", ""), 0)
    with pytest.raises(InputError, match="no question"):
        score_choices(OpenMythos(tiny_config()), ByteTokenizer(), [])
