"""Forward and backward of sums and copies, against the same written out for all ranks at once."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from open_mythos.parallel.collectives import copied, reduced, side_by_side, total
from open_mythos.parallel.degrees import Degrees
from open_mythos.parallel.mesh import Axis, open_mesh
from tests.parallel.workers import Workers


def _axis() -> Axis:
    return open_mesh(Degrees(tensor=2), torch.device("cpu")).tensor


def _layer() -> list[Any]:
    """A product whose inner width is divided, and a join of its columns."""
    axis = _axis()
    x, up, down = weights()
    half = slice(3 * axis.rank, 3 * axis.rank + 3)
    mine_up, mine_down = up[half].clone().requires_grad_(), down[:, half].clone().requires_grad_()
    x.requires_grad_()
    hidden = (copied(x, axis) @ mine_up.t()).tanh()
    out = reduced(hidden @ mine_down.t(), axis)
    wide = side_by_side(hidden, axis)
    # What follows is the same on both ranks, and so is its slope.
    (out.square().sum() + (wide * torch.arange(6.0)).sum()).backward()
    given = (out, wide, x.grad, mine_up.grad, mine_down.grad)
    return [part.tolist() for part in given if part is not None]


def weights() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    shapes = ((4, 5), (6, 5), (5, 6))
    x, up, down = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes)
    return x, up, down


def test_a_divided_product_is_the_product(two: Workers) -> None:
    x, up, down = (part.requires_grad_() for part in weights())
    hidden = (x @ up.t()).tanh()
    out = hidden @ down.t()
    (out.square().sum() + (hidden * torch.arange(6.0)).sum()).backward()
    assert x.grad is not None
    assert up.grad is not None
    assert down.grad is not None
    for rank, answer in enumerate(two(_layer)):
        half = slice(3 * rank, 3 * rank + 3)
        expected = (out, hidden, x.grad, up.grad[half], down.grad[:, half])
        for found, wanted in zip(answer, expected, strict=True):
            torch.testing.assert_close(torch.tensor(found).double(), wanted.detach())


def _kept() -> tuple[list[float], list[float], bool]:
    mine = torch.full((2,), float(dist.get_rank() + 1))
    out = total(mine, _axis())
    return mine.tolist(), out.tolist(), type(out) is Tensor


def test_a_sum_leaves_its_terms_as_they_are(two: Workers) -> None:
    first, second = two(_kept)
    assert first == ([1.0, 1.0], [3.0, 3.0], True)
    assert second == ([2.0, 2.0], [3.0, 3.0], True)
