"""Sequence and depth under one softmax: against loops, in values, gradients and memory."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from open_mythos.moda.depths import attend_depths, attend_one, look_down
from open_mythos.nn.rotary import rotary


def by_loops(q: Tensor, k: Tensor, v: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    rows, t, heads, d = q.shape
    s, group, out = k.shape[1], heads // k.shape[2], torch.zeros_like(q)
    for b, i, h in product(range(rows), range(t), range(heads)):
        g = h // group
        seen = [(k[b, j, g], v[b, j, g]) for j in range(s - t + i + 1)]
        seen += [(a[b, i, g], c[b, i, g]) for a, c in zip(keys, values, strict=True)]
        scores = torch.stack([q[b, i, h] @ key for key, _ in seen]) / math.sqrt(d)
        powers = scores.exp()
        for power, (_, value) in zip(powers / powers.sum(), seen, strict=True):
            out[b, i, h] = out[b, i, h] + power * value
    return out


Case = tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]


def case(t: int, s: int, kv: int, group: int, n: int, spread: float = 1.0) -> Case:
    def draw(*shape: int) -> Tensor:
        return (torch.randn(*shape, dtype=torch.float64) * spread).requires_grad_()

    heads = draw(2, t, kv * group, 4), draw(2, s, kv, 4), draw(2, s, kv, 4)
    keys, values = (tuple(draw(2, t, kv, 4) for _ in range(n)) for _ in range(2))
    return *heads, keys, values


@given(
    t=st.integers(1, 5),
    past=st.integers(0, 3),
    kv=st.integers(1, 2),
    group=st.integers(1, 3),
    n=st.integers(0, 3),
)
def test_equals_the_loops_and_so_does_its_gradient(
    t: int, past: int, kv: int, group: int, n: int
) -> None:
    q, k, v, keys, values = case(t, t + past, kv, group, n)
    got, want = attend_depths(q, k, v, keys, values), by_loops(q, k, v, list(keys), list(values))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    leaves = [q, k, v, *keys, *values]
    slope = torch.randn_like(want)
    pairs = zip(
        torch.autograd.grad(got, leaves, slope),
        torch.autograd.grad(want, leaves, slope),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("spread", [0.01, 30.0])
def test_one_query_by_either_way(spread: float) -> None:
    """Far scores too: the depth may take all of the softmax, or nothing."""
    q, k, v, keys, values = case(3, 5, 2, 2, 2, spread=spread)
    whole = attend_depths(q, k, v, keys, values)
    for i in range(3):
        one = (x[:, i : i + 1] for x in (*keys, *values))
        own = tuple(one)
        got = attend_one(q[:, i : i + 1], k[:, : 3 + i], v[:, : 3 + i], own[:2], own[2:])
        torch.testing.assert_close(got[:, 0], whole[:, i], rtol=1e-9, atol=1e-9)


def cast(some: Case, dtype: torch.dtype) -> Any:
    """The case in another dtype, as leaves without a gradient."""
    parts = (x if isinstance(x, tuple) else (x,) for x in some)
    q, k, v, keys, values = (tuple(y.detach().to(dtype) for y in part) for part in parts)
    return q[0], k[0], v[0], keys, values


@torch.no_grad()
def test_sixteen_bits_keep_the_depths_share() -> None:
    """All scores near 32, where one number of 8 bits would be off by up to 0.125: so would the
    depth's share. The error must be that of rounding inputs and output alone."""
    some = cast(case(40, 40, 1, 2, 3), torch.bfloat16)
    for x in (some[0], some[1], *some[3]):
        x[..., 0] = 8.0
    wide = [tuple(y.double() for y in x) if isinstance(x, tuple) else x.double() for x in some]
    want: Any = attend_depths(*wide)  # type: ignore[arg-type]
    got = attend_depths(*some).double()
    assert ((got - want).norm() / want.norm()) < 2**-7


def test_no_matrix_of_scores_is_kept_and_no_stack_of_depths() -> None:
    q, k, v, keys, values = cast(case(300, 300, 1, 2, 16), torch.float32)
    for x in (q, k, v, *keys, *values):
        x.requires_grad_()
    kept: dict[int, Tensor] = {}

    def note(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x  # alive: its address is not given to another
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        out = attend_depths(q, k, v, keys, values)
    assert out.requires_grad
    sizes = [x.numel() for x in kept.values()]
    queries = 2 * 301 * 2 * (4 + 8)  # rows, positions, heads, the width with its spare channels
    assert max(sizes) <= queries
    assert sum(sizes) <= 4 * queries  # 11 times that with the stacks of keys and values


@given(offset=st.integers(0, 5000))
def test_the_depth_has_no_distance(offset: int) -> None:
    """Query and key of one position are turned alike: where that position stands is no matter."""
    q, _, _, keys, values = cast(case(4, 4, 2, 1, 2), torch.float64)
    turns = rotary(torch.arange(offset, offset + 4), 4, 1000.0)
    still = look_down(q, keys, values)
    moved = look_down(turns.turn(q), tuple(turns.turn(x) for x in keys), values)
    for a, b in zip(still, moved, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_dropout_takes_the_depth_as_one() -> None:
    """One key and one depth: each is there doubled or not at all, and all four happen."""
    q, k, v, keys, values = cast(case(1, 1, 1, 1, 3), torch.float64)
    everything = attend_depths(q, k, v, keys, values)
    depth = attend_one(q, k, 0 * v, keys, values)
    sequence = everything - depth
    found = set()
    for _ in range(60):
        got = attend_depths(q, k, v, keys, values, dropout=0.5)
        for row in range(2):
            near = [
                (a, b)
                for a, b in product((0, 2), repeat=2)
                if torch.allclose(got[row], a * sequence[row] + b * depth[row])
            ]
            assert len(near) == 1
            found.update(near)
    assert len(found) == 4
