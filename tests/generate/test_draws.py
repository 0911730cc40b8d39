"""Choice by tables on the device against `rows.choose`, row by row."""

import random

import pytest
import torch

from open_mythos.generate.draws import Wishes, choose_by
from open_mythos.generate.noise import exponentials, exponentials_of, named
from open_mythos.generate.params import SamplingParams
from open_mythos.generate.rows import Row, choose


VOCAB = 53


def asked(luck: random.Random, *, filters: bool) -> SamplingParams:
    if not filters:
        return SamplingParams(temperature=luck.choice([0.0, 0.7, 2.0]))
    return SamplingParams(
        temperature=luck.choice([0.0, 0.7, 2.0]),
        top_k=luck.choice([0, 1, 5, VOCAB, 99]),
        top_p=luck.choice([1.0, 0.9, 0.3]),
        min_p=luck.choice([0.0, 0.05, 0.5]),
    )


@pytest.mark.parametrize("filters", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows_get_the_tokens_that_the_host_would_choose(filters: bool, dtype: torch.dtype) -> None:
    luck = random.Random()
    rows = [
        Row(asked(luck, filters=filters), luck.randint(-(2**63), 2**63 - 1), luck.randint(0, 3),
            output=[0] * luck.randint(0, 9))
        for _ in range(64)
    ]  # fmt: skip
    logits = torch.randn(64, VOCAB).round(decimals=1)  # with ties, which a sort leaves in any order
    if filters:
        logits = torch.rand(64, VOCAB).argsort(-1) / 8
    logits = logits.to(dtype)
    params = [row.params for row in rows]
    wishes = Wishes(
        temperature=torch.tensor([p.temperature for p in params]),
        top_k=torch.tensor([p.top_k for p in params]),
        top_p=torch.tensor([p.top_p for p in params]),
        min_p=torch.tensor([p.min_p for p in params]),
        names=named([row.key for row in rows]),
    )
    assert torch.equal(choose_by(logits, wishes, filters=filters), choose(logits, rows))
    assert torch.equal(exponentials_of(wishes.names, 7), exponentials([r.key for r in rows], 7))
    assert torch.equal(choose_by(logits, None), logits.argmax(-1))
