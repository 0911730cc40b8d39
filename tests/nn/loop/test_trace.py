"""A trace is what the loops noted, in their order."""

import math

import pytest
import torch

from open_mythos.nn.loop.readout import LastState
from open_mythos.nn.loop.trace import Noted, Part, loop_trace, rows_trace, state_change, state_rms


def test_rms_counts_real_positions_only() -> None:
    h = torch.tensor([[[3.0, 4.0], [100.0, 100.0]]])
    assert float(state_rms(h[:, :1], None)) == pytest.approx(math.sqrt(12.5))
    assert float(state_rms(h, torch.tensor([[True, False]]))) == pytest.approx(math.sqrt(12.5))
    assert float(state_rms(h, torch.tensor([[False, False]]))) == 0.0


def test_a_change_is_that_of_real_positions_and_has_no_gradient() -> None:
    before = torch.randn(1, 2, 2, requires_grad=True)
    h = before + torch.tensor([[[3.0, 4.0], [100.0, 100.0]]])
    change = state_change(h, before, torch.tensor([[True, False]]))
    assert float(change) == pytest.approx(math.sqrt(12.5), rel=1e-6)
    assert not change.requires_grad


def test_a_trace_stacks_the_notes_of_its_loops() -> None:
    h = torch.zeros(2, 3, 4)
    loads = torch.randint(9, (5, 6))
    notes = [Noted(p=None, weight=None, load=load, rms=torch.tensor(float(t)),
                   change=torch.tensor(t / 2)) for t, load in enumerate(loads)]  # fmt: skip
    trace = loop_trace(notes, LastState(h), h)
    assert trace.n_loops == 5
    assert torch.equal(trace.router_load, loads)
    assert trace.state_rms.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert trace.state_change.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert trace.halting is trace.halting_weights is trace.ponder is None
    assert torch.equal(trace.loops_used, torch.full((2, 3), 5))


def test_parts_of_a_loop_are_counted_together() -> None:
    """Three rows end after loops 2, 2 and 1; in the first loop the rows were run apart."""
    h, valid = torch.randn(3, 2, 4), torch.tensor([[1, 1], [1, 0], [0, 1]]).bool()
    loads = torch.randint(9, (3, 6))

    def note(rows: slice, load: torch.Tensor) -> Part:
        rms = state_rms(h[rows], valid[rows])
        return Part(Noted(p=None, weight=None, load=load, rms=rms, change=3.0 * rms), rows)

    loops = [[note(slice(0, 2), loads[0]), note(slice(2, 3), loads[1])],
             [note(slice(0, 2), loads[2])]]  # fmt: skip
    trace = rows_trace(loops, [LastState(h)], torch.tensor([2, 2, 1]), valid, h)
    assert trace.n_loops == 2
    assert torch.equal(trace.router_load, torch.stack([loads[0] + loads[1], loads[2]]))
    assert trace.loops_used.tolist() == [[2, 2], [2, 2], [1, 1]]
    torch.testing.assert_close(trace.state_rms[0], state_rms(h, valid))
    torch.testing.assert_close(trace.state_rms[1], state_rms(h[:2], valid[:2]))
    torch.testing.assert_close(trace.state_change, 3.0 * trace.state_rms)
    moved = trace.moved(torch.tensor([2, 0, 1]))
    assert moved.loops_used.tolist() == [[1, 1], [2, 2], [2, 2]]
