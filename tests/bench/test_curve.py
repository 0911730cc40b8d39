"""Lines through points that are known."""

import numpy as np
import pytest

from open_mythos.bench.curve import line
from open_mythos.errors import InputError


def test_a_straight_line_is_found_exactly() -> None:
    found = line([1, 2, 4, 8], [5, 7, 11, 19])
    assert found.slope == pytest.approx(2)
    assert found.intercept == pytest.approx(3)
    assert found.r2 == pytest.approx(1)


def test_r2_is_the_squared_correlation() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=20), rng.normal(size=20)
    correlation = np.corrcoef(x, y)[0, 1]
    assert line(list(x), list(y)).r2 == pytest.approx(correlation**2)


def test_a_constant_is_straight() -> None:
    found = line([1, 2, 3], [4, 4, 4])
    assert (found.r2, found.slope) == (1.0, pytest.approx(0, abs=1e-12))


def test_two_points_are_no_curve() -> None:
    with pytest.raises(InputError, match="three points"):
        line([1, 2], [1, 2])
