"""Rows taken apart between two loops and put together again."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.loop.readout import open_readout
from open_mythos.nn.loop.recurrent import RecurrentBlock
from open_mythos.nn.loop.standing import Standing, hung, join
from open_mythos.nn.rotary import rotary


def tensors(part: object) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif is_dataclass(part):
        for field in fields(part):
            yield from tensors(getattr(part, field.name))
    elif isinstance(part, dict):
        for inner in part.values():
            yield from tensors(inner)


def same(one: Standing, other: Standing) -> None:
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    assert len(pairs) >= 3
    for a, b in pairs:
        assert torch.equal(a, b)


@pytest.fixture(params=["per_loop", "first"])
def standing(
    request: pytest.FixtureRequest,
    tiny_config: Callable[..., MythosConfig],
    randomised: Any,
    readout: str,
    halted: str,
) -> Standing:
    """Five rows after two loops."""
    cfg = tiny_config(readout=readout, halted=halted, kv=request.param)
    loop = randomised(RecurrentBlock(cfg))
    h, e = torch.randn(2, 5, 4, cfg.dim)
    context = AttentionContext(rotary(torch.arange(4), cfg.rope_dim, cfg.rope_theta))
    now, given = Standing(h, e, open_readout(cfg, h)), loop.constants(2, h)
    for tick in given.ticks:
        now, _ = loop.advance(now, tick, context, coefficients=given.coefficients)
    return now


@pytest.mark.parametrize("tail", [1, 4])
def test_what_was_split_is_joined_again(standing: Standing, tail: int) -> None:
    front, back = standing.split(tail)
    assert (front.rows, back.rows) == (5 - tail, tail)
    assert torch.equal(back.h, standing.h[5 - tail :])
    same(join([front, back]), standing)


def test_a_part_is_what_a_loop_would_leave(standing: Standing) -> None:
    """State and readout, and both tables of who has halted, are one tensor, as after a turn."""
    for part in (*standing.split(2), join(standing.split(2)), hung(standing, standing.e)):
        if standing.frozen is not None:
            assert part.frozen is not None
            assert part.frozen.halted is part.readout.halted
        if standing.readout.halted is None:
            assert part.readout.value is part.h


def test_constants_hang_on_the_input_with_a_slope_of_zero(standing: Standing) -> None:
    constant = standing.copy(Tensor.detach)
    assert not any(t.requires_grad for t in tensors(constant))
    e = constant.e.clone().requires_grad_()
    one = hung(constant, e)
    same(one, constant)
    for t in tensors(one):
        assert t.requires_grad == t.is_floating_point()
    sum(t.sum() for t in tensors(one) if t.is_floating_point() and t is not one.e).backward()
    assert e.grad is not None
    assert not e.grad.any()


def test_what_has_a_slope_keeps_it(standing: Standing) -> None:
    h = standing.h.detach().requires_grad_()
    by = torch.randn_like(h)
    (hung(Standing(h, standing.e, standing.readout), standing.e).h * by).sum().backward()
    assert torch.equal(h.grad, by)


def test_active_positions_are_real_and_run_on(standing: Standing) -> None:
    valid = torch.rand(5, 4) < 0.5
    if standing.frozen is None:
        assert standing.active(valid) is valid
        assert standing.active(None) is None
    else:
        assert torch.equal(standing.active(None), ~standing.frozen.halted)
        assert torch.equal(standing.active(valid), ~standing.frozen.halted & valid)
