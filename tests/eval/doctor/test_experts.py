import math

import pytest
from hypothesis import given, strategies as st

from open_mythos.eval.doctor.experts import busiest, effective, load_spread, total_load
from open_mythos.eval.halting import LoopUse


@given(st.integers(1, 6), st.integers(1, 5))
def test_the_ends_of_the_scale_are_as_even_and_as_few_as_may_be(per_token: int, more: int) -> None:
    experts = per_token + more
    even, few = [3.0] * experts, [7.0] * per_token + [0.0] * more
    assert load_spread(even, experts, per_token) == pytest.approx(1.0)
    assert load_spread(few, experts, per_token) == pytest.approx(0.0, abs=1e-9)
    assert busiest(even, experts, per_token) == pytest.approx(per_token / experts)
    assert busiest(few, experts, per_token) == pytest.approx(1.0)
    # The worst layer speaks, wherever it stands.
    assert load_spread(even + few, experts, per_token) == pytest.approx(0.0, abs=1e-9)
    assert busiest(few + even, experts, per_token) == pytest.approx(1.0)


@given(st.lists(st.floats(0.01, 10.0), min_size=2, max_size=9), st.floats(0.1, 9.0))
def test_evening_out_two_experts_never_lowers_the_spread(load: list[float], scale: float) -> None:
    evened = [sum(load[:2]) / 2] * 2 + load[2:]
    assert effective(evened) >= effective(load) - 1e-9
    assert effective([scale * x for x in load]) == pytest.approx(effective(load))
    assert 1.0 - 1e-9 <= effective(load) <= len(load) + 1e-9


def test_two_halves_and_two_quarters_by_hand() -> None:
    assert effective((0.5, 0.25, 0.25, 0.0)) == pytest.approx(math.exp(1.5 * math.log(2)))


def test_loops_that_never_ran_do_not_count() -> None:
    use = LoopUse(3, 1, (1.0,) * 3, 1.0, (1.0,) * 3, ((0.5, 0.5), (0.1, 0.9), (0.0, 0.0)))
    assert total_load(use) == pytest.approx([0.3, 0.7])
