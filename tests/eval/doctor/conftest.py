"""Measurements of a sound loop, made by hand, of which tests change what they are about."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from open_mythos.eval.doctor.jacobian import Jacobian
from open_mythos.eval.doctor.measurements import Measurements, Starts
from open_mythos.eval.halting import LoopUse
from open_mythos.eval.loop_curve import LoopCurve, LoopPoint


LOOPS = 8


def curve(*losses: float) -> LoopCurve:
    """Losses at 1, 2, 4 and 8 loops; two is the trained depth."""
    points = zip((1, 2, 4, 8), losses, strict=True)
    return LoopCurve("text", tuple(LoopPoint(n, loss, 0.5, 1000) for n, loss in points))


def use(load: tuple[float, ...] = (0.25,) * 4, **changes: Any) -> LoopUse:
    """Of eight loops; positions halt at all of them, the more the later."""
    by = tuple((t / LOOPS) ** 2 for t in range(1, LOOPS + 1))
    return replace(LoopUse(LOOPS, 2000, by, 5.0, (1.0,) * LOOPS, (load,) * LOOPS), **changes)


SOUND = Measurements(
    subject="text",
    trained=2,
    loops=LOOPS,
    tied=False,
    varied=True,
    injection="lti",
    carry=0.01,
    jacobian=Jacobian((0.5, 0.7), 1.5, True),
    sizes=(1.0, 1.1, *[1.15] * 6),
    residuals=tuple(0.5**t for t in range(LOOPS)),
    moved=0.1,
    period=None,
    starts=Starts(0.01, 1.0),
    halts=True,
    use=use(),
    experts=4,
    per_token=2,
    curve=curve(2.2, 2.0, 1.99, 1.99),
)


@pytest.fixture
def sound() -> Measurements:
    return SOUND


@pytest.fixture
def changed() -> Callable[..., Measurements]:
    """`changed(carry=0.999)`: the sound loop's measurements but for these."""
    return lambda **changes: replace(SOUND, **changes)


@pytest.fixture
def loss_curve() -> Callable[..., LoopCurve]:
    return curve


@pytest.fixture
def loop_usage() -> Callable[..., LoopUse]:
    return use
