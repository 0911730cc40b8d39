"""Curves: the points asked for, one trainer for all depths, lines through them."""

from typing import Any

import pytest

from open_mythos.bench.clock import Timing
from open_mythos.bench.contender import Work
from open_mythos.bench.ours import Ours
from open_mythos.bench.suite import Setting
from open_mythos.bench.suites import growth as module
from open_mythos.bench.suites.growth import curve, growth, lines


@pytest.fixture
def attn_type() -> str:
    return "gqa"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOPS", (1, 2, 3))
    monkeypatch.setattr(module, "DEEP", (2, 3, 4))
    monkeypatch.setattr(module, "EXPERTS", (2, 3, 4))
    monkeypatch.setattr(module, "KEPT_LOOPS", 2)


@pytest.mark.usefixtures("short")
def test_every_curve_has_its_points_and_its_line(setting: Setting) -> None:
    cases = {case.name: [row.case for row in case.run()] for case in growth(setting)}
    assert cases["loops"] == ["loops 1", "loops 2", "loops 3", "loops line"]
    assert cases["experts"][-2:] == ["experts line", "experts 2 to 4"]
    assert cases["length"][-1] == "length line"
    assert cases["truncated"][:3] == ["truncated 2", "truncated 3", "truncated 4"]


@pytest.mark.usefixtures("short")
def test_depths_share_a_trainer(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    real = Ours.train
    monkeypatch.setattr(Ours, "train", lambda self, *shape: built.append(1) or real(self, *shape))
    list(growth(setting)[0].run())
    assert len(built) == 1


def test_a_curve_that_is_a_line_has_its_slope(setting: Setting) -> None:
    def attempt(point: int) -> tuple[Work, Timing]:
        return Work(lambda: None, 1), Timing((5.0 + 2.0 * point,))

    rows = list(curve(setting, "x", [1, 2, 4], attempt))
    assert rows[-1].figures["time_slope"].value == pytest.approx(2)
    assert rows[-1].figures["time_r2"].value == pytest.approx(1)
    assert [row.shape for row in rows[:-1]] == [{"x": 1}, {"x": 2}, {"x": 4}]


def test_memory_has_a_line_where_it_was_counted() -> None:
    figures = lines([1, 2, 3], [1.0, 2.0, 3.0], [4.0, 8.0, 12.0])
    assert figures["memory_slope"].value == pytest.approx(4)
    assert "memory_r2" not in lines([1, 2, 3], [1.0, 2.0, 3.0], [])
