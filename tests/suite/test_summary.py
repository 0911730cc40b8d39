import pytest

from open_mythos.eval.loop_curve import DepthMap
from open_mythos.suite.cell import CellResult
from open_mythos.suite.plan import Cell
from open_mythos.suite.summary import Spread, mean_map, summarise


Results = list[tuple[Cell, CellResult]]


def test_a_spread_says_as_much_as_there_is() -> None:
    found = Spread.of([0.5, 1.0, 0.75])
    assert (found.mean, found.least, found.most) == (0.75, 0.5, 1.0)
    assert str(found) == "0.750 (0.500 to 1.000)"
    assert str(Spread.of([0.25])) == "0.250"
    assert str(Spread.of([0.25, 0.2502])) == "0.250"


def test_maps_are_averaged_entry_by_entry() -> None:
    one = DepthMap("x", (1, 2), (1, 4), ((0.0, 1.0), (0.5, 0.25)), 8)
    other = DepthMap("x", (1, 2), (1, 4), ((1.0, 1.0), (0.0, 0.75)), 8)
    assert mean_map([one, other]) == DepthMap("x", (1, 2), (1, 4), ((0.5, 1.0), (0.25, 0.5)), 16)


def test_seeds_are_taken_together(results: Results) -> None:
    found = {(one.problem, one.design): one for one in summarise(results)}
    assert list(found) == [
        ("free", "mythos"),
        ("free", "om05"),
        ("tied", "mythos"),
        ("tied", "om05"),
    ]
    ours = found["tied", "mythos"]
    assert set(ours.verdicts) == {0, 1}
    # Seed 0 has 1.0, 1.0, 1.0 along the diagonal, seed 1 half of it.
    assert ours.own[4] == Spread(0.75, 0.5, 1.0)
    assert ours.reach == (0, 4)
    assert ours.kinds["gains"] == 1
    assert ours.at[1] == Spread.of([0.9, 0.45])
    # Where loops are free, the most that were asked count.
    assert found["free", "om05"].own[1].mean == pytest.approx(0.3)
    assert found["free", "om05"].kinds == {"collapse": 2}


def test_what_is_told_in_json(results: Results) -> None:
    told = summarise(results)[0].to_json()
    assert (told["task"], told["design"]) == ("free", "mythos")
    assert told["accuracy"][4] == {"mean": 0.75, "least": 0.5, "most": 1.0}
    assert told["solved_up_to"] == {"least": 0, "most": 4}
    assert told["over_chance"]["2x"]["most"] == 1.0
    assert told["lost_by_looping_on"] is None
