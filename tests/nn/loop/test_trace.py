"""A trace is what the loops noted, in their order."""

import math

import pytest
import torch

from open_mythos.nn.loop.readout import LastState
from open_mythos.nn.loop.trace import Noted, loop_trace, state_rms


def test_rms_counts_real_positions_only() -> None:
    h = torch.tensor([[[3.0, 4.0], [100.0, 100.0]]])
    assert float(state_rms(h[:, :1], None)) == pytest.approx(math.sqrt(12.5))
    assert float(state_rms(h, torch.tensor([[True, False]]))) == pytest.approx(math.sqrt(12.5))
    assert float(state_rms(h, torch.tensor([[False, False]]))) == 0.0


def test_a_trace_stacks_the_notes_of_its_loops() -> None:
    h = torch.zeros(2, 3, 4)
    loads = torch.randint(9, (5, 6))
    notes = [Noted(p=None, weight=None, load=load, rms=torch.tensor(float(t)))
             for t, load in enumerate(loads)]  # fmt: skip
    trace = loop_trace(notes, LastState(h), h)
    assert trace.n_loops == 5
    assert torch.equal(trace.router_load, loads)
    assert trace.state_rms.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert trace.halting is trace.halting_weights is trace.ponder is None
    assert torch.equal(trace.loops_used, torch.full((2, 3), 5))
