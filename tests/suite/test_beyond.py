"""Beyond the training: what is read off a map, against maps of which one knows it."""

import pytest
from hypothesis import given, settings, strategies as st

from open_mythos.eval.loop_curve import DepthMap
from open_mythos.suite.beyond import Beyond, beyond, most_lost, needed_loops
from open_mythos.suite.verdict import Trained


LOOPS = (1, 2, 4, 8, 16, 32, 64)
CHANCE = 0.2


def made(rows: dict[int, tuple[float, ...]]) -> DepthMap:
    return DepthMap("x", tuple(rows), LOOPS, tuple(rows.values()), 100)


def trained(per_level: int = 0) -> Trained:
    chance = dict.fromkeys((2, 4, 8, 16), CHANCE)
    return Trained(difficulty=4, loops=6, per_level=per_level, chance=chance)


@settings(max_examples=50, deadline=None)
@given(
    needs=st.lists(st.sampled_from(LOOPS), min_size=4, max_size=4),
    after=st.floats(0.96, 1.0),
    later=st.floats(0.5, 0.95),
)
def test_a_row_that_is_solved_with_so_many_loops_needs_them(
    needs: list[int], after: float, later: float
) -> None:
    """Right from `needs` loops on, and less right from four times as many."""
    rows = {
        d: tuple(CHANCE if n < need else after if n < 4 * need else later for n in LOOPS)
        for d, need in zip((2, 4, 8, 16), needs, strict=True)
    }
    found = beyond(made(rows), trained())
    assert found.needed == dict(zip((4, 8, 16), needs[1:], strict=True))
    judged = [need for need in needs[1:] if 4 * need <= LOOPS[-1]]
    assert found.lost == (pytest.approx(after - later) if judged else None)
    ends = {d: row[-1] for d, row in rows.items()}
    assert found.over_chance == pytest.approx({2: (ends[8] - 0.2) / 0.8, 4: (ends[16] - 0.2) / 0.8})


def test_what_is_not_solved_needs_nothing_and_loses_nothing() -> None:
    rows = {4: (0.94, *(0.2,) * 6), 8: (0.1,) * 7}
    assert beyond(made(rows), trained()) == Beyond({2: 0.0}, {}, None)
    assert needed_loops(made(rows), 4) == 0


def test_a_point_below_the_best_is_near_enough_and_a_gain_is_no_loss() -> None:
    rows = {4: (0.5, 0.985, 0.99, 0.995, 0.995, 0.995, 0.995)}
    found = beyond(made(rows), trained())
    assert (found.needed, found.lost) == ({4: 2}, 0.0)


def test_where_loops_are_told_the_diagonal_counts_and_looping_on_is_another_question() -> None:
    rows = {4: (0.0, 0.0, 1.0, 0, 0, 0, 0), 8: (0, 0, 0, 0.6, 0, 0, 0), 16: (1, 0, 0, 0, 0.2, 0, 0)}
    found = beyond(made(rows), trained(per_level=1))
    assert found == Beyond(pytest.approx({2: 0.5, 4: 0.0}), {}, None)
    assert found.to_json() == {"over_chance": found.over_chance, "needed": {}, "lost": None}


def test_the_worst_seed_counts() -> None:
    assert most_lost([Beyond({}, {}, 0.1), Beyond({}, {}, None), Beyond({}, {}, 0.3)]) == 0.3
    assert most_lost([Beyond({}, {}, None)]) is None
