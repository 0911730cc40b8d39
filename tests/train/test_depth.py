import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from open_mythos.data.streams import Purpose, stream
from open_mythos.train.depth import distribution, expected_depth, sample_depth
from open_mythos.train.recipe import DepthConfig


@st.composite
def depths(draw: st.DrawFn) -> DepthConfig:
    least = draw(st.integers(1, 6))
    most = least + draw(st.integers(1, 40))
    mean = least + (most - least) * draw(st.floats(0.02, 0.98))
    kind = draw(st.sampled_from(["uniform", "poisson", "lognormal_poisson"]))
    sigma = draw(st.floats(0.05, 1.5))
    return DepthConfig(kind=kind, mean=mean, min=least, max=most, sigma=sigma)


@settings(max_examples=25, deadline=None)
@given(depths())
def test_a_distribution_lives_on_min_to_max_and_has_the_declared_mean(config: DepthConfig) -> None:
    found = distribution(config)
    assert list(found) == list(range(config.min, config.max + 1))
    assert all(p >= 0 for p in found.values())
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-12)
    mean = (config.min + config.max) / 2 if config.kind == "uniform" else config.mean
    assert expected_depth(config) == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("kind", ["uniform", "poisson", "lognormal_poisson"])
def test_draws_follow_the_distribution(kind: str) -> None:
    config = DepthConfig(kind=kind, mean=4.0, min=1, max=9)
    n = 3000
    drawn = np.bincount([sample_depth(config, 3, step) for step in range(n)], minlength=10)
    for depth, p in distribution(config).items():
        # Five standard errors: one false alarm in about two million.
        assert abs(drawn[depth] / n - p) <= 5 * math.sqrt(p * (1 - p) / n) + 1e-9
    assert drawn.sum() == n


def test_a_wide_cut_leaves_the_plain_poisson() -> None:
    found = distribution(DepthConfig(kind="poisson", mean=6.0, min=1, max=60))
    # Conditioned on at least one, the rate solves rate / (1 - exp(-rate)) = mean.
    rate = 6.0
    for _ in range(200):
        rate = 6.0 * (1.0 - math.exp(-rate))
    for k in range(1, 20):
        exact = math.exp(-rate) * rate**k / math.factorial(k) / (1.0 - math.exp(-rate))
        assert found[k] == pytest.approx(exact, rel=1e-9)


def test_the_log_normal_rate_has_the_longer_tail_and_agrees_with_simulation() -> None:
    plain = distribution(DepthConfig(kind="poisson", mean=8, min=1, max=64))
    mixed = distribution(DepthConfig(kind="lognormal_poisson", mean=8, min=1, max=64, sigma=0.5))
    tail = sum(p for k, p in mixed.items() if k > 16)
    assert tail > 5 * sum(p for k, p in plain.items() if k > 16)
    draw = np.random.default_rng(0)
    # Barely cut, the mixture's mean is rate * exp(sigma^2 / 2).
    rates = 8.0 * np.exp(0.5 * draw.standard_normal(400_000) - 0.125)
    simulated = draw.poisson(rates)
    simulated = simulated[(simulated >= 1) & (simulated <= 64)]
    assert tail == pytest.approx(float((simulated > 16).mean()), rel=0.05)


def test_a_draw_depends_on_seed_and_step_alone() -> None:
    config = DepthConfig(kind="uniform", min=1, max=1000)
    forwards = [sample_depth(config, 7, step) for step in range(20)]
    backwards = [sample_depth(config, 7, step) for step in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) > 10
    assert forwards != [sample_depth(config, 8, step) for step in range(20)]


def test_fixed_is_fixed() -> None:
    config = DepthConfig(kind="fixed", mean=5)
    assert {sample_depth(config, 0, step) for step in range(50)} == {5}
    assert expected_depth(config) == 5


def test_depths_are_drawn_from_their_own_branch_of_the_seed_tree() -> None:
    config = DepthConfig(kind="poisson", mean=5, min=2, max=20)
    depths, probabilities = zip(*distribution(config).items(), strict=True)
    for step in range(50):
        draw = stream(11, Purpose.DEPTH, step).random()
        expected = depths[int(np.searchsorted(np.cumsum(probabilities), draw, side="right"))]
        assert sample_depth(config, 11, step) == expected
