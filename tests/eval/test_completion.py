"""Completions are what each prompt alone would be continued with, cut where it should be."""

from typing import Any

import pytest
import torch

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.errors import InputError
from open_mythos.eval import completion
from open_mythos.eval.completion import completions
from open_mythos.model.mythos import OpenMythos


BYTES = ByteTokenizer()


@pytest.fixture
def model(tiny_config: Any, randomised: Any) -> OpenMythos:
    return randomised(OpenMythos(tiny_config(vocab_size=257))).eval()


def alone(model: OpenMythos, prompt: str, new: int) -> list[int]:
    ids = torch.tensor([BYTES.encode(prompt)[-(32 - new) :]])
    out = model.generate(ids, new, 2, 0.0, eos_token_id=256)
    return out[0, ids.shape[1] :].tolist()


def test_prompts_of_any_length_are_continued_as_if_alone(
    model: OpenMythos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "ROWS", 2)
    prompts = ["abc", "a", "a long prompt that does not fit", "hello wo"]
    found = completions(model, BYTES, prompts, max_new_tokens=5, n_loops=2)
    assert found == [BYTES.decode(alone(model, p, 5)) for p in prompts]


def test_it_ends_at_the_first_stop_and_at_an_end_of_text(model: OpenMythos) -> None:
    whole = completions(model, BYTES, ["abc"], max_new_tokens=6, n_loops=2)[0]
    stop, later = whole[2], whole[3]
    found = completions(model, BYTES, ["abc"], ["", later, stop], max_new_tokens=6, n_loops=2)
    assert found == [whole[: min(whole.index(stop), whole.index(later))]]
    with torch.no_grad():
        model.norm.weight.zero_()  # all logits equal: the first token, a zero byte, again and again
    assert completions(model, BYTES, ["abc"], max_new_tokens=2) == ["\0\0"]
    assert completion._before([5, 256, 7], 256) == [5]


def test_an_empty_prompt_begins_after_an_end(model: OpenMythos) -> None:
    ids = torch.tensor([[256]])
    want = BYTES.decode(model.generate(ids, 4, 2, 0.0, eos_token_id=256)[0, 1:].tolist())
    assert completions(model, BYTES, [""], max_new_tokens=4, n_loops=2) == [want]


@pytest.mark.parametrize("most", [0, -3])
def test_no_room_is_refused(model: OpenMythos, most: int) -> None:
    with pytest.raises(InputError, match=f"max_new_tokens is {most}"):
        completions(model, BYTES, ["a"], max_new_tokens=most)
