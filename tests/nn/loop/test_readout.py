"""Which states the coda gets to see."""

from collections.abc import Callable

import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.loop.readout import ActMean, LastState, join_readouts, open_readout


@pytest.fixture
def states() -> torch.Tensor:
    return torch.randn(3, 1, 2, 16, dtype=torch.float64)


P = torch.tensor([[[0.5, 0.1]], [[0.6, 0.1]], [[0.2, 0.1]]], dtype=torch.float64)
WEIGHTS = {
    "act": [[0.5, 0.1], [0.5, 0.1], [0.0, 0.8]],
    "act_sum": [[0.5, 0.1], [0.5, 0.1], [0.0, 0.1]],
}


@pytest.mark.parametrize("kind", ["act", "act_sum"])
def test_weighted_states(
    kind: str, states: torch.Tensor, tiny_config: Callable[..., MythosConfig]
) -> None:
    readout = open_readout(tiny_config(readout=kind, act_threshold=0.8), states[0])
    paid = []
    for t in range(3):
        readout, weight = readout.step(states[t], P[t], last=t == 2)
        paid.append(weight)
    assert isinstance(readout, ActMean)
    weights = torch.tensor(WEIGHTS[kind], dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(torch.stack(paid), weights)
    torch.testing.assert_close(readout.value, (weights.unsqueeze(-1) * states).sum(0))
    assert readout.halted.tolist() == [[True, False]]


def test_last_state_ignores_halting(
    states: torch.Tensor, tiny_config: Callable[..., MythosConfig]
) -> None:
    readout = open_readout(tiny_config(readout="last"), states[0])
    assert isinstance(readout, LastState)
    for t in range(3):
        readout, weight = readout.step(states[t], None, last=t == 2)
        assert weight is None
    assert readout.halted is None
    assert torch.equal(readout.value, states[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_value_has_the_states_dtype_and_sums_in_float32(
    dtype: torch.dtype, tiny_config: Callable[..., MythosConfig]
) -> None:
    h = torch.ones(1, 1, 16, dtype=dtype)
    readout = open_readout(tiny_config(act_threshold=1.0), h)
    for t in range(300):
        p = torch.full((1, 1), 0.003, dtype=dtype)
        readout, _ = readout.step(h, p, last=t == 299)
    assert isinstance(readout, ActMean)
    assert readout.value.dtype == dtype
    assert readout.value.double().mean().item() == pytest.approx(1.0, abs=0.01)


def test_what_is_read_on_the_way_is_the_value_of_a_pass_that_ends_there(
    states: torch.Tensor, readout: str, tiny_config: Callable[..., MythosConfig]
) -> None:
    cfg = tiny_config(readout=readout, act_threshold=0.8)
    going = open_readout(cfg, states[0])
    for t in range(3):
        ended = going.step(states[t], P[t], last=True)[0]
        going = going.step(states[t], P[t], last=False)[0]
        torch.testing.assert_close(going.read(states[t]), ended.value)


def test_accounts_of_rows_apart_are_those_together(
    states: torch.Tensor, readout: str, tiny_config: Callable[..., MythosConfig]
) -> None:
    cfg, h, p = tiny_config(readout=readout), states.transpose(0, 1)[0], P.transpose(0, 1)[0]
    h, p = h.unsqueeze(1), p.unsqueeze(1)  # three rows of one position block
    whole = open_readout(cfg, h).step(h, p, last=False)[0]
    parts = whole.split([2, 1], h.split([2, 1]))
    steps = [
        part.step(rows, own, last=True)[0]
        for part, rows, own in zip(parts, h.split([2, 1]), p.split([2, 1]), strict=True)
    ]
    joined = join_readouts(steps, h)
    assert torch.equal(joined.value, whole.step(h, p, last=True)[0].value)


def test_act_last_reads_the_state_at_which_a_position_halts(
    states: torch.Tensor, tiny_config: Callable[..., MythosConfig]
) -> None:
    """Weights and ponder cost are those of act."""
    read, by = (
        open_readout(tiny_config(readout=kind, act_threshold=0.8), states[0])
        for kind in ("act_last", "act")
    )
    for t in range(3):
        read, weight = read.step(states[t], P[t], last=t == 2)
        by, want = by.step(states[t], P[t], last=t == 2)
        assert torch.equal(weight, want)
    assert isinstance(read, ActMean)
    assert isinstance(by, ActMean)
    assert torch.equal(read.value[0, 0], states[1, 0, 0])  # 0.5 + 0.6 reach 0.8
    assert torch.equal(read.value[0, 1], states[2, 0, 1])  # never gets there
    assert torch.equal(read.ledger.ponder, by.ledger.ponder)
    assert not read.fusable
