"""Loops per row, from the loop's own side; the laws are in tests/laws/test_per_row.py."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.loop.per_row import RowLoops
from open_mythos.nn.loop.recurrent import RecurrentBlock
from open_mythos.nn.rotary import rotary


@given(st.lists(st.integers(1, 5), min_size=1, max_size=9))
def test_the_order_is_by_depth_and_then_by_row(loops: list[int]) -> None:
    order = RowLoops(tuple(loops)).order
    assert sorted(order) == list(range(len(loops)))
    assert [(-loops[row], row) for row in order] == sorted((-n, r) for r, n in enumerate(loops))


@torch.no_grad()
def test_sorted_rows_are_moved_nowhere(
    tiny_config: Callable[..., MythosConfig], randomised: Any
) -> None:
    """The first turn sees the very tensors that were given."""
    cfg = tiny_config()
    loop = randomised(RecurrentBlock(cfg))
    h, e = torch.randn(2, 3, 4, cfg.dim)
    seen: list[tuple[Any, ...]] = []
    turn = loop.turn

    def watch(*args: Any, **kwargs: Any) -> Any:
        seen.append(args)
        return turn(*args, **kwargs)

    loop.turn = watch
    context = AttentionContext(rotary(torch.arange(4), cfg.rope_dim, cfg.rope_theta))
    value, _ = loop.run(h, e, context, RowLoops((3, 2, 2)), observed=False)
    assert seen[0][0] is h
    assert seen[0][1] is e
    moved, trace = loop.run(h[[1, 0, 2]], e[[1, 0, 2]], context, RowLoops((2, 3, 2)))
    assert torch.equal(moved[[1, 0, 2]], value)
    assert trace is not None
    assert trace.row_loops == (2, 3, 2)


@torch.no_grad()
def test_without_gradient_the_end_is_a_number_where_it_is_one_for_all(
    tiny_config: Callable[..., MythosConfig],
) -> None:
    """A tensor would rule out the kernel that ends a loop."""
    cfg = tiny_config()
    loop = RecurrentBlock(cfg).eval()
    h = torch.randn(3, 4, cfg.dim)
    context = AttentionContext(rotary(torch.arange(4), cfg.rope_dim, cfg.rope_theta))
    lasts: list[Any] = []
    turn = loop.turn

    def watch(*args: Any, **kwargs: Any) -> Any:
        lasts.append(args[3].last)
        return turn(*args, **kwargs)

    loop.turn = watch
    loop.run(h, h, context, RowLoops((4, 2, 4)))
    assert [lasts[0], lasts[2], lasts[3]] == [False, False, True]
    assert lasts[1].tolist() == [[False], [False], [True]]


@torch.no_grad()
def test_ranks_that_meet_in_each_loop_are_told_how_many_there_are(
    tiny_config: Callable[..., MythosConfig],
) -> None:
    cfg = tiny_config()
    loop = RecurrentBlock(cfg).eval()
    loop.lockstep = True
    h = torch.randn(2, 4, cfg.dim)
    context = AttentionContext(rotary(torch.arange(4), cfg.rope_dim, cfg.rope_theta))
    for least in (0, 2):
        with pytest.raises(InputError, match=r"min_loops is .* up to 3 loops.*deepest row of all"):
            loop.run(h, h, context, RowLoops((3, 1), least))
    loop.run(h, h, context, RowLoops((3, 1), 3))
