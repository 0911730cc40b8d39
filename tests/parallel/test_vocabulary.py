"""Embedding, head and loss over a divided vocabulary, against the whole one."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from open_mythos.nn.linear import Linear
from open_mythos.ops.head_loss import HeadLoss, head_loss, head_loss_of_part
from open_mythos.parallel.degrees import Degrees
from open_mythos.parallel.mesh import Axis, open_mesh
from open_mythos.parallel.vocabulary import Words, divide_vocabulary
from tests.parallel.workers import Workers


WORDS, DIM, ROWS = 10, 6, 9
CASES: list[tuple[str, float, int | None]] = [
    ("float64", 0.0, None),
    ("float64", 0.1, 2),
    ("float32", 0.01, 4),
    ("bfloat16", 0.01, None),
]


def given(dtype: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)
    features = torch.randn(ROWS, DIM, generator=draw, dtype=torch.float64).to(kind)
    weight = torch.randn(WORDS, DIM, generator=draw, dtype=torch.float64).to(kind)
    targets = torch.randint(WORDS, (ROWS,), generator=draw)
    targets[::4] = -100
    return features.requires_grad_(), weight, targets


def said(cost: HeadLoss, features: Tensor, weight: Tensor) -> list[Any]:
    (2 * cost.total).backward()
    assert features.grad is not None
    assert weight.grad is not None
    parts = (cost.total, cost.cross_entropy, cost.z_loss, cost.correct, cost.n_targets)
    scalars = [None if part is None else float(part.detach()) for part in parts]
    return [scalars, features.grad.float().tolist(), weight.grad.float().tolist()]


def _axis() -> Axis:
    return open_mesh(Degrees(tensor=2), torch.device("cpu")).tensor


def _loss(dtype: str, z_loss: float, chunk: int | None) -> list[Any]:
    axis = _axis()
    features, weight, targets = given(dtype)
    half = WORDS // axis.size
    own = weight[axis.rank * half :][:half].clone().requires_grad_()
    part = Words(axis)
    cost = head_loss_of_part(part, features, own, targets, z_loss=z_loss, chunk=chunk)
    return said(cost, features, own)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_loss_of_all_parts_is_the_loss(two: Workers, case: tuple[str, float, Any]) -> None:
    dtype, z_loss, chunk = case
    features, weight, targets = given(dtype)
    weight.requires_grad_()
    cost = head_loss(features, weight, targets, z_loss=z_loss, chunk=chunk, backend="chunked")
    scalars, slopes, rows = said(cost, features, weight)
    close = {"float64": 1e-12, "float32": 1e-6, "bfloat16": 2e-2}[dtype]
    answers = two(_loss, dtype, z_loss, chunk)
    for found, features_slope, _ in answers:
        assert found[3:] == scalars[3:]
        torch.testing.assert_close(found, scalars, rtol=close, atol=close)
        torch.testing.assert_close(
            torch.tensor(features_slope), torch.tensor(slopes), rtol=close, atol=close
        )
    together = torch.cat([torch.tensor(answer[2]) for answer in answers])
    torch.testing.assert_close(together, torch.tensor(rows), rtol=close, atol=close)
    assert answers[0][:2] == answers[1][:2]  # bit for bit: what follows is computed twice


def _outside() -> float:
    features, weight, targets = given("float32")
    targets[1] = WORDS
    cost = head_loss_of_part(Words(_axis()), features, weight[:5].clone(), targets)
    return float(cost.total.detach())


def test_a_target_that_is_nobodys_word_is_not_scored_as_one(two: Workers) -> None:
    assert all(math.isnan(loss) for loss in two(_outside))


def _tied() -> list[Any]:
    axis = _axis()
    embed, head, ids = nn.Embedding(WORDS, DIM), Linear(DIM, WORDS), torch.arange(WORDS).flip(0)
    table = torch.arange(float(WORDS * DIM)).view(WORDS, DIM) / 10
    half = WORDS // axis.size
    own = nn.Parameter(table[axis.rank * half :][:half].clone())
    divide_vocabulary(embed, head, own, axis)
    assert embed.weight is head.weight is own
    x = embed(ids.view(2, -1))
    logits = head(x)
    (logits.square().sum() / 100).backward()
    assert own.grad is not None
    none = head(x[:, :0]).shape
    return [x.tolist(), logits.tolist(), own.grad.tolist(), tuple(none), dist.get_rank()]


def test_a_divided_table_reads_and_writes_as_the_whole_one(two: Workers) -> None:
    table = (torch.arange(float(WORDS * DIM)).view(WORDS, DIM) / 10).requires_grad_()
    x = table[torch.arange(WORDS).flip(0)].view(2, -1, DIM)
    logits = x @ table.t()
    (logits.square().sum() / 100).backward()
    assert table.grad is not None
    for found, answer, slope, none, rank in two(_tied):
        torch.testing.assert_close(torch.tensor(found), x.detach())
        torch.testing.assert_close(torch.tensor(answer), logits.detach())
        torch.testing.assert_close(torch.tensor(slope), table.grad[5 * rank :][:5])
        assert none == (2, 0, WORDS)
