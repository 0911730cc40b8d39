"""Bits per byte of texts: every token once, whatever the windows."""

import math
from typing import Any

import pytest
import torch

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.errors import InputError
from open_mythos.eval.bits_per_byte import score_texts
from open_mythos.model.mythos import OpenMythos


@torch.no_grad()
def test_a_text_that_fits_costs_its_cross_entropy(tiny_config: Any, randomised: Any) -> None:
    model = randomised(OpenMythos(tiny_config(vocab_size=257))).eval()
    texts = ["to be or not", "Wörter", ""]
    nats = hits = count = 0.0
    for text in texts[:2]:
        ids = torch.tensor([[256, *text.encode()]])
        logits = model(ids, 2)[0, :-1].double()
        nats += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        hits += int((logits.argmax(-1) == ids[0, 1:]).sum())
        count += len(text.encode())
    found = score_texts(model, ByteTokenizer(), texts, 2)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / count, rel=1e-5)
    assert (found.n_bytes, found.n_targets, found.n_loops) == (count, count, 2)
    assert found.accuracy == pytest.approx(hits / count)


def test_a_model_that_knows_nothing_needs_the_logarithm_of_its_vocabulary(
    tiny_config: Any,
) -> None:
    model = OpenMythos(tiny_config(vocab_size=257))
    with torch.no_grad():
        model.embed.weight.zero_()
    found = score_texts(model, ByteTokenizer(), ["x" * 100, "y"])  # three windows and a bit
    assert found.bits_per_byte == pytest.approx(math.log2(257))
    assert found.n_targets == 101


def test_nothing_to_score_is_refused(tiny_config: Any) -> None:
    with pytest.raises(InputError, match="2 texts hold no token"):
        score_texts(OpenMythos(tiny_config(vocab_size=257)), ByteTokenizer(), ["", ""])
