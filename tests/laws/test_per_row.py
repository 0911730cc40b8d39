"""Loops per row: every row as if it were alone at its own depth, for no more than that costs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.block import TransformerBlock
from open_mythos.parallel.apply import apply


Build = Callable[..., OpenMythos]
VOCAB, ROWS, LENGTH = 37, 5, 6


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def draw_depths(most: int = 7) -> list[int]:
    """Rows of several depths in no order, the deepest not the first."""
    depths: list[int] = torch.randint(1, most + 1, (ROWS,)).tolist()
    depths[0], depths[2] = 2, most
    return depths


def padding() -> Tensor:
    """Some on the left, some on the right, some in no row."""
    mask = torch.ones(ROWS, LENGTH, dtype=torch.int64)
    mask[0, :2] = mask[2, -1:] = mask[3, :1] = 0
    return mask


def gradients(model: OpenMythos) -> Tensor:
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    model.zero_grad()
    return torch.cat([grad.flatten() for grad in found])


def together_and_alone(
    model: OpenMythos, ids: Tensor, depths: list[int], mask: Tensor | None = None, **how: Any
) -> tuple[Any, list[Any], Tensor, Tensor]:
    """Records of one pass and of a pass per row, and the gradients of the same scalar of both."""
    by = torch.randn(*ids.shape, VOCAB, dtype=torch.float64)
    if mask is not None:
        by = by * mask.unsqueeze(-1)
    out = model(ids, depths, attention_mask=mask, return_output=True, **how)
    (out.logits * by).sum().backward()
    joint, single = gradients(model), []
    for row, depth in enumerate(depths):
        own = None if mask is None else mask[row : row + 1]
        alone = model(ids[row : row + 1], depth, attention_mask=own, return_output=True, **how)
        (alone.logits * by[row : row + 1]).sum().backward()
        single.append(alone)
    return out, single, joint, gradients(model)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_each_row_is_as_if_alone(any_config: MythosConfig, build: Build, padded: bool) -> None:
    """MoE, loop index, adapter, both attentions, all readouts, both ends of a halted position."""
    model = build(any_config).train()
    ids, mask = torch.randint(VOCAB, (ROWS, LENGTH)), padding() if padded else None
    depths = draw_depths()
    out, single, joint, apart = together_and_alone(model, ids, depths, mask)
    real = torch.ones_like(ids).bool() if mask is None else mask.bool()
    alone = torch.cat([one.logits for one in single])
    close(out.logits[real], alone[real])
    assert joint.norm() > 0
    close(joint, apart)


@pytest.mark.parametrize("kv", ["first", "last"])
def test_keys_shared_between_loops(attn_type: str, halted: str, kv: str, build: Build) -> None:
    model = build(attn_type=attn_type, halted=halted, kv=kv)
    ids = torch.randint(VOCAB, (ROWS, LENGTH))
    out, single, joint, apart = together_and_alone(model, ids, draw_depths(), padding())
    real = padding().bool()
    close(out.logits[real], torch.cat([one.logits for one in single])[real])
    close(joint, apart)


@pytest.mark.parametrize("kv", ["per_loop", "first"])
@pytest.mark.parametrize("backprop_loops", [1, 3])
def test_only_the_last_loops_of_each_row_are_differentiated(
    readout: str, halted: str, kv: str, build: Build, backprop_loops: int
) -> None:
    model = build(readout=readout, halted=halted, kv=kv).train()
    ids = torch.randint(VOCAB, (ROWS, LENGTH))
    for depths in (draw_depths(), [1, 1, 2, 1, 1], [6] * ROWS):
        out, single, joint, apart = together_and_alone(
            model, ids, depths, padding(), backprop_loops=backprop_loops
        )
        real = padding().bool()
        close(out.logits[real], torch.cat([one.logits for one in single])[real])
        close(joint, apart)


@pytest.mark.parametrize("kv", ["per_loop", "first"])
def test_all_of_it_under_checkpointing(halted: str, kv: str, build: Build) -> None:
    model = build(halted=halted, kv=kv).train()
    ids, depths = torch.randint(VOCAB, (ROWS, LENGTH)), draw_depths()
    _, _, joint, apart = together_and_alone(
        apply(model, checkpointed=True), ids, depths, backprop_loops=3
    )
    assert joint.norm() > 0
    close(joint, apart)


@pytest.mark.parametrize("backprop_loops", [None, 2])
def test_the_record_is_that_of_the_rows(
    readout: str, halted: str, build: Build, backprop_loops: int | None
) -> None:
    model = build(readout=readout, halted=halted).train()
    ids, mask, depths = torch.randint(VOCAB, (ROWS, LENGTH)), padding(), draw_depths()
    out, single, _, _ = together_and_alone(model, ids, depths, mask, backprop_loops=backprop_loops)
    most, real = max(depths), mask.bool()
    assert out.n_loops == most == len(out.router_load) == len(out.state_rms)
    assert out.row_loops == tuple(depths)
    for t in range(most):
        running = [row for row, depth in enumerate(depths) if depth > t]
        load = torch.stack([single[row].router_load[t] for row in running]).sum(0)
        assert torch.equal(out.router_load[t], load)
        counts = mask[running].sum(1).double()
        for name in ("state_rms", "state_change"):
            each = torch.stack([getattr(single[row], name)[t] for row in running]).double()
            want = ((counts * each.square()).sum() / counts.sum()).sqrt()
            found = getattr(out, name)[t].double()
            torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)
        for row, depth in enumerate(depths):
            if out.halting is None:
                break
            for table, own in (
                (out.halting, single[row].halting),
                (out.halting_weights, single[row].halting_weights),
            ):
                found = table[t, row][real[row]]
                close(found, own[t, 0][real[row]] if t < depth else torch.zeros_like(found))
    used = torch.cat([one.loops_used for one in single])
    assert torch.equal(out.loops_used[real], used[real])
    if out.halting is None:
        assert out.ponder_cost is None
        return
    share = mask.sum(1).double() / mask.sum()
    close(out.ponder_cost, sum(s * one.ponder_cost for s, one in zip(share, single, strict=True)))
    if model.cfg.readout == "act":
        close(out.halting_weights.sum(0), torch.ones(ROWS, LENGTH, dtype=torch.float64))


@settings(max_examples=8)
@given(depths=st.lists(st.integers(1, 9), min_size=1, max_size=8), data=st.data())
def test_no_finished_row_is_computed(build: Build, depths: list[int], data: st.DataObject) -> None:
    """Rows that pass through the block, counted: the sum of the depths, however they are cut."""
    model = build().train(data.draw(st.booleans()))
    backprop_loops = data.draw(st.none() | st.integers(1, 5))
    passed: list[int] = []
    block, run = model.recurrent.block, TransformerBlock.run

    def watch(self: TransformerBlock, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self is block:
            passed.append(x.shape[0])
        return run(self, x, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransformerBlock, "run", watch)
        model(torch.randint(VOCAB, (len(depths), 3)), depths, backprop_loops=backprop_loops)
    assert sum(passed) == sum(depths)
    assert len(passed) <= max(depths) * (1 if backprop_loops is None else 2)


def test_a_step_costs_what_the_mean_depth_costs(build: Build) -> None:
    """Multiply-adds of a whole pass and its way back, counted by torch."""
    model = build(dim=32, expert_dim=32, dense_hidden=32).train()
    model.recurrent.block.ffn.experts_backend = "dense"  # its products do not depend on routing
    ids = torch.randint(VOCAB, (8, LENGTH))

    def flops(loops: Any) -> int:
        with FlopCounterMode(display=False) as counter:
            model(ids, loops).sum().backward()
        return int(counter.get_total_flops())

    depths = [1, 5, 1, 1, 3, 2, 2, 1]
    assert sum(depths) == 2 * len(depths)
    apart, mean, most = flops(depths), flops(2), flops(5)
    assert mean <= apart <= 1.001 * mean
    assert most > 1.5 * mean


@pytest.mark.parametrize("readout", ["act", "last", "act_last", "act_sum"])
def test_loops_are_read_out_on_the_way(readout: str, halted: str, build: Build) -> None:
    """What is read after a loop is what a pass of so many loops would give."""
    model = build(readout=readout, halted=halted).train()
    ids, mask = torch.randint(VOCAB, (ROWS, LENGTH)), padding()
    by = torch.randn(3, ROWS, LENGTH, model.cfg.dim, dtype=torch.float64) * mask.unsqueeze(-1)
    for loops in (6, draw_depths(6)):
        rows = [loops] * ROWS if isinstance(loops, int) else loops
        read = model(ids, loops, attention_mask=mask, read_loops=(4, 1, 6), return_output=True)
        sum((x * b).sum() for x, b in zip(read.loop_features, by, strict=True)).backward()
        joint = gradients(model)
        for x, b, depth in zip(read.loop_features, by, (4, 1, 6), strict=True):
            cut = [min(depth, row) for row in rows]
            one = model(ids, cut, attention_mask=mask, return_output=True).features
            close(x[mask.bool()], one[mask.bool()])
            (one * b).sum().backward()
        close(joint, gradients(model))


def test_reading_changes_nothing_else(any_config: MythosConfig, build: Build) -> None:
    model = build(any_config)
    ids = torch.randint(VOCAB, (ROWS, LENGTH))
    for loops in (5, draw_depths(5)):
        plain = model(ids, loops, return_output=True)
        read = model(ids, loops, read_loops=(1, 3), return_output=True)
        assert torch.equal(plain.logits, read.logits)
        assert plain.loop_features == ()


def test_what_is_never_reached_reads_as_the_end(build: Build) -> None:
    """Evaluation stops when all positions have halted; whoever reads later reads the same."""
    model = build(halted="freeze")
    model.recurrent.act.halt.bias.data.fill_(20.0)
    out = model(torch.randint(VOCAB, (2, 4)), 6, read_loops=(5,), return_output=True)
    assert out.n_loops == 1
    assert torch.equal(out.loop_features[0], out.features)


# -- ranks that wait for each other --------------------------------------------------------------


class Meeting(torch.autograd.Function):
    """Stands for a collective in the block: its name and direction are noted, nothing is done."""

    log: tuple[str, ...] = ()

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Meeting.log += ("there",)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        Meeting.log += ("back",)
        return grad


@pytest.mark.parametrize("backprop_loops", [None, 1, 3])
@pytest.mark.parametrize("readout", ["act", "last"])
def test_ranks_with_shallow_rows_take_part_in_every_loop(
    readout: str,
    halted: str,
    backprop_loops: int | None,
    build: Build,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The order of meetings is one on all ranks, and changes neither values nor gradients."""
    model = build(readout=readout, halted=halted).train()
    ids, feed = torch.randint(VOCAB, (ROWS, LENGTH)), TransformerBlock._feed

    def meet(self: TransformerBlock, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        ends, load = feed(self, x, *args, **kwargs)
        return (ends if load is None else Meeting.apply(ends)), load

    monkeypatch.setattr(TransformerBlock, "_feed", meet)
    logs = []
    for depths in ([7, 1, 2, 2, 6], [1, 1, 1, 1, 1], [3, 2, 7, 7, 7], [2, 5, 1, 1, 4]):
        found = []
        for least in (None, 7):
            Meeting.log = ()
            torch.manual_seed(3)
            out = model(
                ids, depths, min_loops=least, backprop_loops=backprop_loops, return_output=True
            )
            (out.logits * torch.randn_like(out.logits)).sum().backward()
            found.append((out, gradients(model)))
        (plain, want), (out, got) = found
        logs.append(Meeting.log)
        close(out.logits, plain.logits)
        close(got, want)
        assert torch.equal(out.router_load, plain.router_load)
        assert torch.equal(out.loops_used, plain.loops_used)
        assert out.n_loops == max(depths)
    assert set(logs) == {logs[0]}
    silent = 0 if backprop_loops is None else 7 - backprop_loops
    assert logs[0] == ("there",) * (silent + 7) + ("back",) * 7


# -- the door ------------------------------------------------------------------------------------


@torch.no_grad()
def test_every_kind_of_row_of_numbers(build: Build) -> None:
    model, ids = build(), torch.randint(VOCAB, (3, 4))
    want = model(ids, [2, 5, 1])
    for given_ in ((2, 5, 1), torch.tensor([2, 5, 1]), np.array([2, 5, 1], dtype=np.int32)):
        assert torch.equal(model(ids, given_), want)


@pytest.mark.parametrize(
    ("loops", "words"),
    [
        ([2, 3], r"n_loops has 2 numbers, the input 3 rows; it must have one per row"),
        ([2, 0, 3], r"n_loops, row 1, is 0; it must be an int of at least 1"),
        ([2, 1, 2.0], r"n_loops, row 2, is 2\.0; it must be an int"),
        ([True, 1, 2], r"n_loops, row 0, is True"),
        (torch.ones(3), r"n_loops, row 0, is 1\.0"),
        (torch.ones(3, dtype=torch.int64, device="meta"), r"n_loops is on meta.*use a list"),
    ],
    ids=str,
)
def test_rows_of_numbers_that_cannot_be_run(build: Build, loops: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build()(torch.zeros(3, 4, dtype=torch.int64), loops)


def test_where_rows_must_not_differ(build: Build) -> None:
    model, ids = build(), torch.zeros(2, 4, dtype=torch.int64)
    for cache in ({}, model.new_cache(2, 9)):
        with pytest.raises(InputError, match=r"one number per row, but a cache.*give one int"):
            model(ids, [1, 2], cache)
    with pytest.raises(InputError, match=r"one number per row, but generation.*give one int"):
        model.generate(ids, 2, [1, 2])
    with pytest.raises(InputError, match=r"min_loops is 4, but n_loops is one number"):
        model(ids, 2, min_loops=4)
    with pytest.raises(InputError, match=r"min_loops is 0; it must be an int of at least 1"):
        model(ids, [1, 2], min_loops=0)


def test_loops_that_cannot_be_read(build: Build) -> None:
    model, ids = build(), torch.zeros(2, 4, dtype=torch.int64)
    for wrong in (0, 4, 1.0, True):
        with pytest.raises(InputError, match=rf"read_loops has {wrong!r}; each must .* 1 \.\. 3"):
            model(ids, 3, read_loops=[wrong], return_output=True)
    with pytest.raises(InputError, match=r"read_loops has 0; .* at least 1"):
        model(ids, [1, 3], read_loops=[0], return_output=True)
    assert len(model(ids, [1, 3], read_loops=[9], return_output=True).loop_features) == 1
    for how in ({}, {"kv_cache": {}, "return_output": True}):
        with pytest.raises(InputError, match=r"leave the cache out, and give return_output=True"):
            model(ids, 3, read_loops=[2], **how)


@torch.no_grad()
def test_a_dense_core_has_no_loads(build: Build) -> None:
    model, ids = build(core_ffn="dense"), torch.randint(VOCAB, (3, 4))
    out = model(ids, [2, 5, 1], return_output=True)
    assert out.router_load.shape == model(ids, 5, return_output=True).router_load.shape == (5, 0)
