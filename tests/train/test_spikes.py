import math

import pytest
import torch

from open_mythos.train.spikes import SETTLE, SHARE, Spikes


def run(norms: list[float], factor: float = 3.0) -> tuple[list[bool], Spikes]:
    spikes = Spikes.start(torch.device("cpu"))
    return [bool(spikes.calm(torch.tensor(n), factor)) for n in norms], spikes


def test_nothing_is_judged_before_the_mean_rests_on_enough() -> None:
    norms = [float(10 ** (i % 4)) for i in range(SETTLE)]
    verdicts, spikes = run(norms)
    assert all(verdicts)
    assert float(spikes.mean) == pytest.approx(sum(norms) / SETTLE, rel=1e-4)


def test_a_spike_is_left_out_and_hardly_moves_the_mean() -> None:
    verdicts, spikes = run([1.0] * 200 + [3.01, 1000.0, 2.99, 1.0])
    assert verdicts == [True] * 200 + [False, False, True, True]
    # Each of the two entered as three times the mean.
    assert float(spikes.mean) < 1.0 + 3 * 2.1 * SHARE


def test_the_mean_is_an_average_that_forgets() -> None:
    want, norms = 0.0, torch.rand(300).add(0.5).tolist()
    for i, norm in enumerate(norms):
        want += max(1 / (i + 1), SHARE) * (norm - want)
    verdicts, spikes = run(norms)
    assert all(verdicts)
    assert float(spikes.mean) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_not_calm_and_teaches_nothing(bad: float) -> None:
    for before in (0, 10, 200):
        verdicts, spikes = run([1.0] * before + [bad])
        assert not verdicts[-1]
        assert int(spikes.seen) == before
        assert float(spikes.mean) == (1.0 if before else 0.0)


def test_a_norm_that_stays_high_is_taken_again_after_a_while() -> None:
    verdicts, _ = run([1.0] * 100 + [10.0] * 300)
    away = verdicts[100:].index(True)
    assert 20 < away < 120
    assert all(verdicts[100 + away :])


def test_its_state_keeps_its_types() -> None:
    _, spikes = run([1.0, 2.0, math.nan])
    assert (spikes.mean.dtype, spikes.seen.dtype) == (torch.float32, torch.int32)
