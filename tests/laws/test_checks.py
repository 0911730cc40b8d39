from collections.abc import Sequence

import numpy as np
import pytest

from open_mythos.errors import InputError
from open_mythos.laws.fit import fit
from open_mythos.laws.law import ISO_DEPTH, TEST_TIME, TRAINING
from open_mythos.laws.points import Points


def curve(loops: Sequence[float], loss: Sequence[float]) -> Points:
    return Points("c", np.array(loss, dtype=float), {"loops": np.array(loops, dtype=float)})


@pytest.mark.parametrize(
    ("loops", "loss", "said"),
    [
        ([1, 2, 4], [3.0, 2.5, 2.4], "c has 3 points; .* has 3 constants, so at least 4"),
        ([4] * 6, [3.0, 2.9, 3.1, 3.0, 2.9, 3.1], "one value of loops, 4"),
        ([1, 2, 1, 2, 1], [3.0, 2.5, 3.0, 2.5, 3.01], "5 points at 2 different loops; 3 are"),
        ([1, 2, 4, 8, 16], [2.5] * 5, "all 5 losses of c are 2.5"),
        ([1, 2, 4, 8, 16], [2.5, 2.6, 2.7, 2.75, 2.76], "Z = 0: its loss does not fall"),
    ],
)
def test_points_that_fix_nothing_are_refused(
    loops: list[float], loss: list[float], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        fit(TEST_TIME, curve(loops, loss))


def test_one_number_of_loops_says_nothing_of_phi(rng: np.random.Generator) -> None:
    looped = rng.uniform(1e6, 1e8, size=9)
    inputs = {
        "loops": np.full(9, 4.0),
        "params_once": np.full(9, 1e7),
        "params_looped": looped,
        "tokens": rng.uniform(1e8, 1e10, size=9),
    }
    with pytest.raises(InputError, match=r"one value of loops, 4; .* measure at several"):
        fit(ISO_DEPTH, Points("grid", rng.uniform(2.0, 3.0, size=9), inputs))


def test_nothing_looped_says_nothing_of_phi(rng: np.random.Generator) -> None:
    once, tokens = rng.uniform(1e6, 1e8, size=12), rng.uniform(1e8, 1e10, size=12)
    inputs = {
        "loops": rng.integers(1, 9, size=12).astype(float),
        "params_once": once,
        "params_looped": np.zeros(12),
        "tokens": tokens,
    }
    loss = 1.5 + 30.0 * once**-0.2 + 500.0 * tokens**-0.35
    with pytest.raises(InputError, match="cannot tell phi of"):
        fit(ISO_DEPTH, Points("grid", loss, inputs))


def test_tokens_in_step_with_parameters_do_not_tell_the_powers_apart() -> None:
    params = np.geomspace(1e7, 1e9, 12)
    loss = 2.0 + 50.0 * params**-0.25
    inputs = {"params": params, "tokens": 20.0 * params}
    with pytest.raises(InputError, match=r"= 0|cannot tell"):
        fit(TRAINING, Points("line", loss, inputs))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match=r"c has a loss of .*must be positive"):
        curve([1, 2, 4, 8], [3.0, bad, 2.5, 2.4])
    with pytest.raises(InputError, match=r"c has a loops of .*must be positive"):
        curve([1, 2, bad, 8], [3.0, 2.7, 2.5, 2.4])


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(InputError, match="4 losses, but 3 of loops"):
        curve([1, 2, 4], [3.0, 2.7, 2.5, 2.4])
