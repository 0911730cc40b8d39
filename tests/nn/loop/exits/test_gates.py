"""Learned probabilities of stopping, added up and multiplied."""

import torch
from hypothesis import given, strategies as st

from open_mythos.nn.loop.exits.criterion import Criterion, Kept, Seen
from open_mythos.nn.loop.exits.gates import Act, Gate
from open_mythos.nn.loop.halting import HaltingLedger


probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def first_done(rule: Criterion, chances: list[float]) -> int | None:
    """The loop at which one position is done; None: never."""
    blank, kept = torch.zeros(1, 1, 2, dtype=torch.float64), Kept()
    for t, p in enumerate(chances, start=1):
        given_ = torch.full((1, 1), p, dtype=torch.float64)
        score, kept = rule.score(Seen(t, blank, blank, p=given_), kept)
        if bool(rule.done(score)):
            return t
    return None


@given(chances=probabilities, threshold=st.sampled_from([0.25, 0.5, 0.99, 1.0]))
def test_act_halts_where_the_ledger_does(chances: list[float], threshold: float) -> None:
    h = torch.zeros(1, 1, 2, dtype=torch.float64)
    ledger = HaltingLedger.open(h, threshold)
    for p in chances:
        ledger, _ = ledger.spend(h, torch.full((1, 1), p, dtype=torch.float64), last=False)
    halted = int(ledger.loops) if bool(ledger.halted) else None
    assert first_done(Act(threshold), chances) == halted


@given(chances=probabilities, threshold=st.sampled_from([0.2, 0.5, 0.9]))
def test_the_gate_is_the_distribution_of_the_exit_loop(
    chances: list[float], threshold: float
) -> None:
    """P(exit at t) = l_t prod_(j < t) (1 - l_j), summed."""
    total, left, want = 0.0, 1.0, None
    for t, chance in enumerate(chances, start=1):
        total, left = total + chance * left, left * (1 - chance)
        if abs(total - threshold) < 1e-9:
            return  # rounding may rightly pick either side
        if total >= threshold and want is None:
            want = t
    assert first_done(Gate(threshold), chances) == want
