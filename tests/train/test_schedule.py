import math
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from open_mythos.train.recipe import OptimConfig
from open_mythos.train.schedule import learning_rate


KINDS = ["cosine", "wsd", "linear", "constant"]


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    warmup=st.integers(0, 30),
    more=st.integers(2, 200),
    ratio=st.floats(0, 1),
    fraction=st.floats(0, 1),
)
def test_up_to_the_peak_then_never_up_again_and_down_to_the_floor(
    kind: str, warmup: int, more: int, ratio: float, fraction: float
) -> None:
    steps = warmup + more
    config = OptimConfig(
        lr=0.3,
        schedule=kind,
        warmup_steps=warmup,
        final_ratio=ratio,
        decay_fraction=fraction,
    )
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    rise, fall = rates[:warmup], rates[warmup:]
    assert all(0 < a < b for a, b in pairwise(rise))
    assert max(rates) == pytest.approx(0.3)
    assert fall[0] == pytest.approx(0.3) or (kind == "wsd" and steps * fraction >= more - 1)
    assert all(a >= b - 1e-12 for a, b in pairwise(fall))
    assert rates[-1] == pytest.approx(0.3 if kind == "constant" else 0.3 * ratio)
    assert learning_rate(config, steps + 50, steps) == pytest.approx(rates[-1])


def test_the_warm_up_is_a_straight_line_that_starts_above_zero() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=4)
    rates = [learning_rate(config, step, 100) for step in range(5)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_cosine_is_half_way_at_half_time_and_flat_at_both_ends() -> None:
    config = OptimConfig(lr=1.0, schedule="cosine", warmup_steps=0, final_ratio=0.0)
    rates = [learning_rate(config, step, 101) for step in range(101)]
    for step, rate in enumerate(rates):
        assert rate == pytest.approx(math.cos(math.pi * step / 200) ** 2, abs=1e-12)


def test_wsd_stays_until_its_share_of_the_run_is_left() -> None:
    config = OptimConfig(
        lr=1.0, schedule="wsd", warmup_steps=10, decay_fraction=0.2, final_ratio=0.0
    )
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[10:80] == [1.0] * 70
    assert rates[79:] == pytest.approx([1.0 - i / 20 for i in range(21)])


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(KINDS),
    warmup=st.integers(0, 40),
    steps=st.integers(1, 40),
    fraction=st.floats(0, 1),
    late=st.integers(0, 60),
)
def test_no_run_is_too_short_and_no_step_too_late(
    kind: str, warmup: int, steps: int, fraction: float, late: int
) -> None:
    """Warm-ups past the end, falls of no length, steps past the last: never up past the peak."""
    config = OptimConfig(
        lr=0.3, schedule=kind, warmup_steps=warmup, final_ratio=0.2, decay_fraction=fraction
    )
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    assert all(0 < rate <= 0.3 * (1 + 1e-12) for rate in rates)
    if steps <= warmup:
        assert rates == pytest.approx([0.3 * (step + 1) / warmup for step in range(steps)])
    beyond = learning_rate(config, max(steps, warmup) + late + 1, steps)
    assert beyond == pytest.approx(0.3 if kind == "constant" else 0.06)


def test_wsd_without_a_fall_drops_at_the_last_step() -> None:
    config = OptimConfig(lr=1.0, schedule="wsd", warmup_steps=2, decay_fraction=0, final_ratio=0.1)
    rates = [learning_rate(config, step, 9) for step in range(9)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1, 0.1])
