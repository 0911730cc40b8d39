import json
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from open_mythos.data.batch import Batch
from open_mythos.errors import InputError
from open_mythos.eval.loop_curve import DepthMap, LoopCurve, LoopPoint, depth_map, sweep
from open_mythos.eval.perplexity import Score


class Counter(nn.Module):
    """Says the number of loops that it was given, as a token."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, ids: Tensor, n_loops: int | None = None) -> Tensor:
        said = torch.full_like(ids, n_loops or 0)
        return self.scale * nn.functional.one_hot(said, 20)


class Echo:
    """A task whose answer at difficulty d is d."""

    def evaluation_batch(self, difficulty: int, seed: int = 0) -> Batch:
        ids = torch.zeros(2, 3, dtype=torch.int64)
        return Batch(ids, torch.full_like(ids, difficulty))


def best_at_four(model: nn.Module, n_loops: int) -> Score:
    return Score(loss=1.0 + abs(n_loops - 4), accuracy=1.0 / n_loops, n_targets=100)


def test_a_sweep_visits_each_number_once_in_order() -> None:
    seen: list[int] = []

    def note(model: nn.Module, n_loops: int) -> Score:
        seen.append(n_loops)
        return best_at_four(model, n_loops)

    curve = sweep(Counter(), [8, 1, 4, 8], note, "text")
    assert seen == [1, 4, 8]
    assert [p.n_loops for p in curve.points] == [1, 4, 8]
    assert curve.best.n_loops == 4
    assert curve.at(8) == LoopPoint(8, 5.0, 0.125, 100)
    assert curve.at(1).perplexity == pytest.approx(math.exp(4.0))
    with pytest.raises(InputError, match="no point at 2 loops; it has 1, 4, 8"):
        curve.at(2)


def test_of_equal_scores_the_fewest_loops_are_best() -> None:
    curve = sweep(Counter(), [2, 3, 1], lambda m, n: Score(2.0, 0.5, 10))
    assert curve.best.n_loops == 1


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(1, 99), st.floats(0, 50), st.floats(0, 1), st.integers(1, 10**9)),
        min_size=1,
    )
)
def test_a_curve_survives_json(points: list[tuple[int, float, float, int]]) -> None:
    curve = LoopCurve("x", tuple(LoopPoint(*p) for p in points))
    assert LoopCurve.from_json(json.loads(json.dumps(curve.to_json()))) == curve


def test_a_loss_that_is_no_number_survives_json_as_one() -> None:
    curve = LoopCurve("x", (LoopPoint(1, math.nan, 0.0, 5),))
    text = json.dumps(curve.to_json(), allow_nan=False)
    assert math.isnan(LoopCurve.from_json(json.loads(text)).points[0].loss)


def test_the_map_has_a_cell_for_every_difficulty_and_number_of_loops() -> None:
    found = depth_map(Counter(), Echo(), [5, 2, 3], [3, 1, 2], batches=4, name="echo")
    assert (found.difficulties, found.loops) == ((2, 3, 5), (1, 2, 3))
    assert found.accuracy == ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0))
    assert found.n == 4 * 2 * 3
    assert found.at(3, 3) == 1.0
    assert DepthMap.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(InputError, match="no cell at difficulty 4, 1 loops"):
        found.at(4, 1)


@pytest.mark.parametrize("loops", [[], [0], [1, -2], [1.5], [True]])
def test_impossible_numbers_of_loops_are_refused(loops: list[int]) -> None:
    with pytest.raises(InputError, match="n_loops"):
        sweep(Counter(), loops, best_at_four)
    with pytest.raises(InputError, match="difficulty"):
        depth_map(Counter(), Echo(), loops, [1])
