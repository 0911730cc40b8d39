import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from open_mythos.data.streams import Purpose, stream
from open_mythos.train.depth import (
    DepthConfig,
    deal,
    distribution,
    expected_depth,
    sample_depth,
    sample_depths,
)


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
    assert expected_depth(config) == pytest.approx(mean, rel=1e-6)


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
        assert found[k] == pytest.approx(exact, rel=1e-6)


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


# -- per sequence --------------------------------------------------------------------------------


def pooled(counts: np.ndarray, shares: np.ndarray) -> Iterator[tuple[float, float]]:
    """Neighbouring depths put together until each expects five draws, as the test demands."""
    seen = expected = 0.0
    for count, share in zip(counts, shares * counts.sum(), strict=True):
        seen, expected = seen + count, expected + share
        if expected >= 5.0:
            yield seen, expected
            seen = expected = 0.0
    yield seen, expected


@pytest.mark.parametrize("kind", ["uniform", "poisson", "lognormal_poisson"])
def test_rows_follow_the_distribution_mean_and_tails(kind: str) -> None:
    config = DepthConfig(kind=kind, mean=6.0, min=2, max=24, sigma=0.7, per="sequence")
    drawn = np.concatenate([sample_depths(config, 5, step, None, 64) for step in range(400)])
    depths, shares = (np.array(x) for x in zip(*distribution(config).items(), strict=True))
    counts = np.array([(drawn == depth).sum() for depth in depths])
    assert counts.sum() == len(drawn) == 25_600
    cells = list(pooled(counts, shares))
    square = sum((seen - want) ** 2 / want for seen, want in cells if want)
    free = len(cells) - 1
    # Chi-square has mean `free` and variance 2 * free; five deviations above is one in 1e5 or so.
    assert square < free + 5 * math.sqrt(2 * free)
    mean = expected_depth(config)
    error = math.sqrt((shares * (depths - mean) ** 2).sum() / len(drawn))
    assert abs(drawn.mean() - mean) < 5 * error


@given(
    seed=st.integers(0, 2**40),
    step=st.integers(0, 10**7),
    world=st.sampled_from([1, 2, 4]),
    micro=st.integers(1, 5),
)
def test_any_split_over_ranks_and_passes_sees_the_same(
    seed: int, step: int, world: int, micro: int
) -> None:
    config = DepthConfig(kind="poisson", mean=5, min=1, max=20, curriculum_steps=10**6)
    whole = sample_depths(config, seed, step, None, 20)
    parts = [range(at, min(at + micro, 20 // world * (rank + 1)))
             for rank in range(world)
             for at in range(20 // world * rank, 20 // world * (rank + 1), micro)]  # fmt: skip
    assert [d for rows in parts for d in sample_depths(config, seed, step, rows, 20)] == whole
    scattered = [7, 0, 19, 7]
    assert sample_depths(config, seed, step, scattered, 20) == [whole[row] for row in scattered]


def test_a_row_is_told_by_its_number_in_the_run_alone() -> None:
    """Rows of a batch of 8 are those of two batches of 4; without a curriculum no step matters."""
    config = DepthConfig(kind="uniform", min=1, max=1000)
    eight = [d for step in range(6) for d in sample_depths(config, 3, step, None, 8)]
    four = [d for step in range(12) for d in sample_depths(config, 3, step, None, 4)]
    assert eight == four
    assert len(set(eight)) > 40
    assert sample_depths(config, 4, 0, None, 8) != eight[:8]
    assert sample_depths(config, 3, 0, [], 8) == []


# -- the curriculum ------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(config=depths(), share=st.floats(0, 1), data=st.data())
def test_the_curriculum_is_exact_at_every_step(
    config: DepthConfig, share: float, data: st.DataObject
) -> None:
    start = config.fewest + share * (config.declared_mean - config.fewest)
    steps = data.draw(st.integers(1, 1000))
    grown = DepthConfig(
        kind=config.kind, mean=config.mean, min=config.min, max=config.max, sigma=config.sigma,
        curriculum_steps=steps, start_mean=start,
    )  # fmt: skip
    deepest = 0
    for step in sorted({0, data.draw(st.integers(0, steps)), steps, 2 * steps}):
        found = distribution(grown, step)
        line = start + (config.declared_mean - start) * min(step / steps, 1)
        assert sum(found.values()) == pytest.approx(1.0, abs=1e-12)
        assert expected_depth(grown, step) == pytest.approx(line, rel=1e-6)
        assert config.min <= min(found) <= max(found) <= config.max
        assert max(found) >= deepest
        deepest = max(found)
    assert distribution(grown, steps) == distribution(grown) == distribution(config)


def test_a_fixed_depth_grows_between_whole_numbers() -> None:
    config = DepthConfig(kind="fixed", mean=5, curriculum_steps=16)
    assert distribution(config, 0) == {1: 1.0}
    assert distribution(config, 4) == {2: 1.0}
    assert distribution(config, 6) == {2: 0.5, 3: 0.5}
    assert distribution(config, 16) == {5: 1.0}
    drawn = [sample_depth(config, 1, step) for step in range(40)]
    assert drawn[0] == 1
    assert set(drawn[16:]) == {5}
    assert all(abs(d - config.mean_at(step)) < 1 for step, d in enumerate(drawn))


def test_the_most_loops_grow_with_the_mean() -> None:
    config = DepthConfig(kind="poisson", mean=8, min=1, max=32, curriculum_steps=100, start_mean=2)
    assert [max(distribution(config, step)) for step in (0, 50, 100)] == [8, 20, 32]


# -- dealing -------------------------------------------------------------------------------------


@given(
    depths=st.lists(st.integers(1, 64), max_size=40), parts=st.integers(1, 9)
)  # fmt: skip
def test_hands_hold_every_row_once_and_the_same_work(depths: list[int], parts: int) -> None:
    hands = deal(depths, parts)
    assert len(hands) == parts
    assert sorted(row for hand in hands for row in hand) == list(range(len(depths)))
    sums = [sum(depths[row] for row in hand) for hand in hands]
    assert max(sums) - min(sums) <= max(depths, default=0)
    counts = [len(hand) for hand in hands]
    assert max(counts) - min(counts) <= 1
    for hand in hands:
        held = [depths[row] for row in hand]
        assert held == sorted(held, reverse=True)
    assert deal(list(depths), parts) == hands


def test_ranks_wait_for_each_other_by_a_loop_or_two() -> None:
    """With eight rows a rank, the deepest rows of all hands are near each other."""
    config = DepthConfig(kind="poisson", mean=8, min=1, max=32)
    for step, world in product(range(20), (2, 4)):
        drawn = sample_depths(config, 0, step, None, 8 * world)
        hands = [[drawn[row] for row in hand] for hand in deal(drawn, world)]
        work = [sum(hand) for hand in hands]
        assert max(work) <= 1.05 * sum(work) / world
