import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.windows import TokenWindows
from open_mythos.eval.text_judge import POSITIONS, TextJudge, first_rows, in_passes_of


TEXT = "A\u00e9\u20ac\U0001f600 and plain words. " * 30
BYTES = ByteTokenizer()


class Depths(nn.Module):
    """Logits of a table, sharper with every loop; counts its passes by loops."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(BYTES.vocab_size, BYTES.vocab_size)
        self.passes: list[tuple[int, int]] = []

    def forward(self, ids: Tensor, n_loops: int = 1) -> Tensor:
        self.passes.append((n_loops, ids.numel()))
        logits: Tensor = self.table(ids) * n_loops
        return logits


def windows(seq_len: int, batch_size: int = 3) -> TokenWindows:
    tokens = np.asarray([*BYTES.encode(TEXT), BYTES.eos_id])
    return TokenWindows(tokens, seq_len, batch_size, seed=0, vocab_size=BYTES.vocab_size)


def bits_by_hand(model: Depths, n_loops: int, targets: int) -> float:
    """Minus the binary logarithm of what is given to the first targets, over the bytes they are."""
    stream = TEXT.encode()
    shares = (model.table.weight.detach().double() * n_loops).log_softmax(-1)
    lost = -sum(float(shares[a, b]) for a, b in pairwise(stream[: targets + 1]))
    return lost / math.log(2) / len(stream[1 : targets + 1].decode("utf-8", "replace").encode())


@pytest.mark.parametrize("seq_len", [5, 16])
def test_bits_per_byte_are_those_of_the_bytes_themselves(seq_len: int) -> None:
    model, targets = Depths(), 240
    judge = TextJudge(windows(seq_len), 2, tokenizer=BYTES, tokens=targets)
    for _ in range(2):  # the second time with the bytes counted before
        found = judge(model, 0)
        assert found["bits_per_byte"] == pytest.approx(bits_by_hand(model, 2, targets), rel=1e-6)
        assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert not {key for key in found if "_at_" in key}


def test_bytes_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    class Counting(ByteTokenizer):
        def decode(self, ids: Any) -> str:
            counted.append(1)
            return super().decode(ids)

    judge = TextJudge(windows(8), 2, (1, 4), Counting(), 80)
    first, second = judge(Depths(), 0), judge(Depths(), 1)
    assert len(counted) == 1
    assert first.keys() == second.keys() >= {"bits_per_byte", "loss_at_1", "loss_at_2", "loss_at_4"}


def test_other_depths_are_scored_on_the_same_targets_each_once() -> None:
    model = Depths()
    found = TextJudge(windows(8), 2, (4, 1, 2, 4), tokens=78)(model, 0)
    rows = 10 * 8
    assert model.passes == [(2, rows), (1, rows), (4, rows)]
    assert found["loss_at_2"] == found["loss"]
    assert found["loss_at_4"] != found["loss_at_1"]
    assert "bits_per_byte" not in found


def test_a_pass_is_no_larger_than_memory_allows() -> None:
    model = Depths()
    TextJudge(windows(64, batch_size=1000), 1, tokens=10**9)(model, 0)
    assert max(n for _, n in model.passes) <= POSITIONS
    assert sum(n for _, n in model.passes) >= len(TEXT.encode())


@dataclass
class Rows:
    batch_size: int = 3
    total: int = 11

    def batches(self) -> Iterator[Batch]:
        ids = torch.arange(self.total * 2).view(-1, 2)
        for part in ids.split(self.batch_size):
            yield Batch(part, torch.where(part > 3, part, IGNORE), level=2, documents=part // 4)


@given(size=st.integers(1, 12), rows=st.integers(0, 14))
def test_the_first_rows_are_the_same_however_they_come(size: int, rows: int) -> None:
    found = list(first_rows(Rows(size).batches(), rows))
    together = [row for batch in found for row in batch.ids.tolist()]
    assert together == [[2 * i, 2 * i + 1] for i in range(min(rows, 11))]
    assert all(batch.ids.shape == batch.targets.shape for batch in found)
    assert all(batch.level == 2 for batch in found)
    assert all(torch.equal(batch.ids // 4, batch.documents) for batch in found)  # type: ignore[arg-type]


def test_only_the_size_of_a_pass_is_changed() -> None:
    assert in_passes_of(Rows(3, 7), 5) == Rows(5, 7)
