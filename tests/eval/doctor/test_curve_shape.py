import math

import pytest

from open_mythos.eval.doctor.curve_shape import curve_shape, lost_beyond
from open_mythos.eval.loop_curve import LoopCurve, LoopPoint


def curve(*losses: float) -> LoopCurve:
    return LoopCurve("", tuple(LoopPoint(2**i, x, 0.0, 1) for i, x in enumerate(losses)))


@pytest.mark.parametrize(
    ("losses", "shape"),
    [
        ((3.0, 2.0, 2.0), "plateau"),
        ((3.0, 2.0, 1.9), "gains"),
        ((3.0, 2.0, 2.2), "V"),
        ((2.0, 2.0, 2.2), "collapse"),
        ((1.0, 2.0, 2.2), "collapse"),
        ((3.0, 2.0, math.nan), "V"),
        ((3.0, 2.0), "plateau"),
    ],
)
def test_shapes_seen_from_two_loops(losses: tuple[float, ...], shape: str) -> None:
    assert curve_shape(curve(*losses), 2, 0.05) == shape


def test_a_dip_between_two_rises_is_still_lost() -> None:
    assert lost_beyond(curve(3.0, 2.0, 2.5, 1.5), 2) == pytest.approx(0.5)
    assert lost_beyond(curve(3.0, 2.0), 2) == 0.0
    assert lost_beyond(curve(3.0, 2.0, math.nan), 2) == math.inf
