"""Verdicts on maps made by hand, one of each kind, read both ways."""

import random

import pytest

from open_mythos.errors import InputError
from open_mythos.eval.loop_curve import DepthMap
from open_mythos.suite.verdict import (
    MEANINGS,
    Kind,
    Trained,
    judge,
    own_loops,
    reach_of,
    share,
)


LEVELS = (1, 2, 4, 8, 16, 32)
CHANCE = dict.fromkeys(LEVELS, 0.1)


def tied(diagonal: list[float], stopped: float = 0.1) -> DepthMap:
    """A map whose rows answer at loops = difficulty; elsewhere what stopping is worth."""
    rows = tuple(
        tuple(diagonal[i] if i == j else stopped for j in range(len(LEVELS)))
        for i in range(len(LEVELS))
    )
    return DepthMap("tied", LEVELS, LEVELS, rows, 1000)


def free(*rows: tuple[float, ...]) -> DepthMap:
    """A map whose last row is three times as hard as the training."""
    return DepthMap("free", (4, 8, 24)[: len(rows)], (1, 4, 8, 32), rows, 1000)


TIED = Trained(difficulty=4, loops=4, per_level=1, chance=CHANCE)
FREE = Trained(difficulty=8, loops=8, per_level=0, chance={4: 0.5, 8: 0.5, 24: 0.5})


@pytest.mark.parametrize(
    ("diagonal", "kind", "reach"),
    [
        ([1.0, 1.0, 1.0, 1.0, 0.99, 0.96], "gains", 32),
        ([1.0, 1.0, 0.99, 0.97, 0.85, 0.79], "gains", 8),
        ([0.9, 0.9, 0.9, 0.9, 0.89, 0.89], "plateau", 0),
        ([1.0, 1.0, 0.99, 0.7, 0.6, 0.55], "V", 4),
        ([1.0, 1.0, 0.98, 0.5, 0.2, 0.12], "collapse", 4),
        ([0.1, 0.12, 0.11, 0.1, 0.09, 0.1], "chance", 0),
        ([1.0, 0.5, 0.13, 0.1, 0.1, 0.1], "chance", 1),
    ],
)
def test_a_tied_map_is_read_along_its_diagonal(
    diagonal: list[float], kind: Kind, reach: int
) -> None:
    found = judge(tied(diagonal), TIED)
    assert (found.kind, found.reach) == (kind, reach)
    assert found.trained == diagonal[2]
    assert (found.hardest, found.far) == (32, diagonal[-1])


def test_loops_that_answer_no_better_than_stopping_are_worth_nothing() -> None:
    """Half right at 32 hops is no merit where half are answered by stopping at 4 loops."""
    diagonal = [1.0, 1.0, 0.98, 0.5, 0.5, 0.5]
    assert judge(tied(diagonal, stopped=0.1), TIED).kind == "V"
    found = judge(tied(diagonal, stopped=0.48), TIED)
    assert found.kind == "collapse"
    assert found.gain == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        # Harder ones are solved by the loops beyond the training alone.
        (((1.0, 1.0, 1.0, 1.0), (0.7, 0.9, 1.0, 1.0), (0.5, 0.6, 0.7, 0.98)), "gains"),
        # What they rise by comes within the trained loops.
        (((1.0, 1.0, 1.0, 1.0), (0.7, 0.9, 1.0, 1.0), (0.5, 0.6, 0.7, 0.71)), "plateau"),
        (((1.0, 1.0, 1.0, 0.9), (0.7, 0.9, 1.0, 0.8), (0.5, 0.6, 0.7, 0.6)), "V"),
        # The trained row alone loses something, which the mean with rows at chance would hide.
        (((1.0, 1.0, 1.0, 1.0), (0.7, 0.9, 1.0, 0.96), (0.5, 0.5, 0.5, 0.5)), "V"),
        (((1.0, 1.0, 1.0, 0.5), (0.7, 0.9, 1.0, 0.5), (0.5, 0.6, 0.7, 0.5)), "collapse"),
        (((0.9, 0.9, 0.9, 0.9), (0.53, 0.54, 0.54, 0.54), (0.5, 0.5, 0.5, 0.5)), "chance"),
        # Nothing harder was asked: then there is nothing to gain.
        (((1.0, 1.0, 1.0, 1.0), (0.7, 0.9, 0.95, 1.0)), "plateau"),
    ],
)
def test_a_free_map_is_read_by_rows(rows: tuple[tuple[float, ...], ...], kind: Kind) -> None:
    found = judge(free(*rows), FREE)
    assert found.kind == kind
    assert found.trained == max(rows[1][:3])
    assert found.far == rows[-1][-1]


def test_numbers_of_a_free_map() -> None:
    found = judge(free((1.0, 1.0, 1.0, 1.0), (0.7, 0.9, 1.0, 1.0), (0.5, 0.6, 0.7, 0.98)), FREE)
    assert found.gain == pytest.approx(0.28)
    assert found.fall == 0.0
    assert found.reach == 24
    falling = judge(free((1.0, 1.0, 1.0, 0.9), (0.7, 0.9, 1.0, 0.8), (0.5, 0.6, 0.7, 0.6)), FREE)
    # Of the half above chance both rows together fell from (1 + 0.4) / 2 to (0.6 + 0.2) / 2, the
    # trained one from 1 to 0.6.
    assert falling.fall == pytest.approx(0.4)
    assert falling.reach == 8


def test_any_map_gets_one_verdict_that_has_a_meaning() -> None:
    draw = random.Random(5)
    kinds = set()
    for _ in range(400):
        level = draw.random()
        diagonal = [min(1.0, max(0.0, level + draw.gauss(0, 0.3))) for _ in LEVELS]
        kinds.add(judge(tied(diagonal, draw.random() * 0.5), TIED).kind)
        rows = tuple(tuple(draw.random() for _ in range(4)) for _ in range(3))
        kinds.add(judge(free(*rows), FREE).kind)
    assert kinds == set(MEANINGS)


def test_own_loops_are_those_granted_or_the_most_asked() -> None:
    found = tied([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    assert own_loops(found, TIED) == list(zip(LEVELS, (1.0, 0.9, 0.8, 0.7, 0.6, 0.5), strict=True))
    twice = Trained(difficulty=4, loops=8, per_level=2, chance=CHANCE)
    assert [d for d, _ in own_loops(found, twice)] == [1, 2, 4, 8, 16]
    loose = Trained(difficulty=4, loops=8, per_level=0, chance=CHANCE)
    assert own_loops(found, loose)[-1] == (32, 0.5)
    assert own_loops(found, loose)[0] == (1, 0.1)


def test_shares_and_reach() -> None:
    assert share(0.55, 0.1) == pytest.approx(0.5)
    assert share(0.05, 0.1) == 0.0
    assert share(1.0, 1.0) == 0.0
    assert reach_of([(1, 0.99), (2, 0.96), (4, 0.94), (8, 1.0)]) == 2
    assert reach_of([(1, 0.5)]) == 0


def test_a_map_without_the_trained_row_is_refused() -> None:
    with pytest.raises(InputError, match="difficulty 8"):
        judge(DepthMap("free", (4, 24), (1, 8, 32), ((1.0,) * 3, (1.0,) * 3), 10), FREE)
