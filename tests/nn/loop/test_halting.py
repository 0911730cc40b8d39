"""The halting ledger against Graves' definition, one position at a time."""

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.nn.loop.halting import ACTHalting, HaltingLedger


@dataclass
class Account:
    """Adaptive computation time of one position, in plain Python (arXiv 1603.08983, eqs 6 to 13).

    N is the first step at which the running sum of p reaches the threshold, or the last step; the
    weights are p before N and the remainder R = 1 - sum of those at N.
    """

    threshold: float
    p: list[float]
    weights: list[float] = field(default_factory=list)
    loops: int = 0
    remainder: float = 0.0

    def settle(self) -> "Account":
        total, open_ = 0.0, True
        for t, p in enumerate(self.p):
            if not open_:
                self.weights.append(0.0)
                continue
            self.loops += 1
            if total + p >= self.threshold or t == len(self.p) - 1:
                self.remainder = 1.0 - total
                self.weights.append(self.remainder)
                open_ = False
            else:
                self.weights.append(p)
                total += p
        return self


AWKWARD = [0.0, 1.0, 5e-324, 1e-300, 1e-40, 0.5, 0.25, 0.99, 0.01, 1 - 2**-53, 1 - 2**-24]
probabilities = st.sampled_from(AWKWARD) | st.floats(0, 1)
thresholds = st.sampled_from([0.99, 1.0, 0.5, 1e-9, 0.25]) | st.floats(1e-6, 1)


def run(
    p: torch.Tensor, threshold: float, h: torch.Tensor, settled: bool = True
) -> tuple[HaltingLedger, torch.Tensor]:
    """p (T, B, S), h (T, B, S, dim) -> ledger, weights (T, B, S)."""
    ledger, weights = HaltingLedger.open(h[0], threshold, settled=settled), []
    for t in range(len(p)):
        last = t == len(p) - 1  # as a number and as a tensor, in turn
        ledger, weight = ledger.spend(h[t], p[t], last=torch.tensor(last) if t % 2 else last)
        weights.append(weight)
    return ledger, torch.stack(weights)


@given(
    p=st.lists(st.lists(probabilities, min_size=3, max_size=3), min_size=1, max_size=8),
    threshold=thresholds,
    at_threshold=st.booleans(),
)
def test_ledger_is_graves_definition(
    p: list[list[float]], threshold: float, at_threshold: bool
) -> None:
    if at_threshold:
        p[0][1] = threshold
    probs = torch.tensor(p, dtype=torch.float64).unsqueeze(1)  # (T, 1, 3)
    h = torch.randn(len(p), 1, 3, 2, dtype=torch.float64)
    ledger, weights = run(probs, threshold, h)
    assert (weights >= 0).all()
    for s in range(3):
        want = Account(threshold, [row[s] for row in p]).settle()
        assert weights[:, 0, s].tolist() == want.weights
        assert ledger.loops[0, s].item() == want.loops
        assert ledger.remainder[0, s].item() == want.remainder
        assert ledger.ponder[0, s].item() == want.loops + want.remainder
        mean = sum(w * h[t, 0, s] for t, w in enumerate(want.weights))
        torch.testing.assert_close(ledger.mean[0, s], mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@given(
    p=st.lists(probabilities, min_size=1, max_size=40), threshold=thresholds, exact=st.booleans()
)
def test_weights_are_a_distribution_in_every_dtype(
    dtype: torch.dtype, p: list[float], threshold: float, exact: bool
) -> None:
    if exact:
        p[0] = threshold
    probs = torch.tensor(p, dtype=torch.float64).to(dtype).view(-1, 1, 1)
    h = torch.zeros(len(p), 1, 1, 2, dtype=dtype)
    ledger, weights = run(probs, threshold, h)
    assert (weights >= 0).all()
    assert abs(weights.double().sum().item() - 1.0) <= 1e-6
    assert weights.dtype == torch.promote_types(dtype, torch.float32)
    assert ledger.loops.item() == max(int((weights != 0).nonzero()[-1, 0]) + 1, 1)


@given(
    p=st.lists(probabilities, min_size=2, max_size=8), threshold=thresholds, noise=st.integers(0, 9)
)
def test_a_halted_position_adds_nothing_more(p: list[float], threshold: float, noise: int) -> None:
    probs = torch.tensor(p).view(-1, 1, 1)
    h = torch.randn(len(p), 1, 1, 2)
    ledger, weights = run(probs, threshold, h)
    n = int(ledger.loops.item())
    h[n:] = 1e6 * (noise + 1)
    probs = probs.clone()
    probs[n:] = torch.rand(len(p) - n, 1, 1)
    again, same = run(probs, threshold, h)
    assert torch.equal(weights, same)
    assert torch.equal(ledger.mean, again.mean)
    assert torch.equal(ledger.ponder, again.ponder)


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=8), threshold=thresholds)
def test_unsettled_loses_the_remainder_of_those_who_never_halt(
    p: list[float], threshold: float
) -> None:
    probs = torch.tensor(p, dtype=torch.float64).view(-1, 1, 1)
    h = torch.ones(len(p), 1, 1, 1, dtype=torch.float64)
    ledger, weights = run(probs, threshold, h, settled=False)
    total, halted, want = 0.0, False, []
    for value in p:  # open-mythos 0.5.0: p while running, 1 - sum at the threshold, then nothing
        if halted:
            want.append(0.0)
        elif total + value >= threshold:
            want.append(1.0 - total)
            halted = True
        else:
            want.append(value)
            total += value
    assert weights.flatten().tolist() == want
    assert ledger.halted.item() == halted
    assert ledger.mean.item() == pytest.approx(sum(want), abs=1e-12)


def test_gradients_are_those_of_the_weights() -> None:
    p = torch.tensor([0.3, 0.4, 0.5], dtype=torch.float64, requires_grad=True)
    h = torch.randn(3, 1, 1, 2, dtype=torch.float64)
    ledger, _ = run(p.view(3, 1, 1), 0.9, h)
    (ledger.mean.sum() + ledger.ponder.sum()).backward()
    assert p.grad is not None
    # mean = p0 h0 + p1 h1 + (1 - p0 - p1) h2, ponder = 3 + 1 - p0 - p1
    s = h.sum(-1).flatten()
    want = [(s[0] - s[2] - 1).item(), (s[1] - s[2] - 1).item(), 0.0]
    assert p.grad.tolist() == pytest.approx(want, abs=1e-12)


def test_halting_probability_is_a_sigmoid_of_one_logit() -> None:
    act = ACTHalting(4).double()
    h = torch.randn(2, 3, 4, dtype=torch.float64)
    p = act(h)
    assert p.shape == (2, 3)
    logit = (h * act.halt.weight[0]).sum(-1) + act.halt.bias
    torch.testing.assert_close(p, 1 / (1 + (-logit).exp()))


@given(data=st.data(), settled=st.booleans(), threshold=thresholds)
def test_closed_is_the_mean_if_this_loop_were_the_last(
    data: st.DataObject, settled: bool, threshold: float
) -> None:
    loops = data.draw(st.integers(1, 5))
    p = torch.tensor([[data.draw(st.lists(probabilities, min_size=2, max_size=2))]] * loops)
    p, h = p.double(), torch.randn(loops, 1, 2, 3, dtype=torch.float64)
    ledger = HaltingLedger.open(h[0], threshold, settled=settled)
    for t in range(loops):
        ended, _ = ledger.spend(h[t], p[t], last=True)
        ledger, _ = ledger.spend(h[t], p[t], last=False)
        torch.testing.assert_close(ledger.closed(h[t]), ended.mean)


def test_ledgers_are_split_and_joined_row_by_row() -> None:
    h = torch.randn(5, 2, 3)
    whole, _ = HaltingLedger.open(h, 0.7).spend(h, torch.rand(5, 2), last=False)
    parts = whole.split([1, 4])
    later = [part.spend(h[:1], torch.rand(1, 2), last=True)[0] for part in parts[:1]]
    assert later[0].mean.shape == (1, 2, 3)
    joined = HaltingLedger.join(parts)
    for name in ("mean", "spent", "halted", "loops", "remainder"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
    assert (joined.threshold, joined.settled) == (whole.threshold, whole.settled)
