"""Pictures of exits show every number that they are made of."""

from dataclasses import replace
from typing import Any

import pytest

from open_mythos.eval.calibration import Calibrated, Calibration, Trade
from open_mythos.eval.overthinking import Overthinking
from open_mythos.report.exit_figure import exit_figure, exit_page, overthinking_figure


@pytest.fixture
def calibration() -> Calibration:
    curve = tuple(Trade(t, 8 - t, 2.0 + 0.01 * t * t, 0.005 * t, 0.01 * t, 500) for t in range(6))
    exits = {
        name: Calibrated(name, curve[i:], curve[i], curve[i + 1] if i else None, 0.5)
        for i, name in enumerate(("fixed", "latent", "kl"))
    }
    over = Overthinking(0.6, 0.5, 0.1, (0.3, 0.55, 0.5), (0.3, 0.02), (0.05, 0.07))
    return Calibration("loss", 0.01, 8, 2.0, exits, curve[4], over, "kl")


def test_every_curve_and_every_verified_point(calibration: Calibration) -> None:
    axes: Any = exit_figure(calibration).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    for name, one in calibration.exits.items():
        assert list(lines[name].get_xdata()) == [trade.mean_loops for trade in one.curve]
        assert list(lines[name].get_ydata()) == [1 + trade.cost for trade in one.curve]
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert len(dots) == 2
    assert lines["budget"].get_ydata()[0] == pytest.approx(1.01)
    axes = exit_figure(replace(calibration, metric="accuracy")).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["kl"].get_ydata()) == [1 - t.cost for t in calibration.exits["kl"].curve]
    assert lines["budget"].get_ydata()[0] == pytest.approx(0.99)
    assert lines["oracle"].get_xdata()[0] == calibration.oracle.mean_loops


def test_loops_mend_and_break(calibration: Calibration) -> None:
    axes: Any = overthinking_figure(calibration).axes[0]
    right, mended, broken = axes.get_lines()
    assert list(right.get_xdata()) == [1, 2, 3]
    assert list(mended.get_xdata()) == list(broken.get_xdata()) == [2, 3]


def test_the_page_holds_words_table_and_pictures(calibration: Calibration) -> None:
    page = exit_page(calibration, "Exits of a model", ["A budget of 1 %."])
    assert page.count("data:image/png") == 2
    for text in ("Exits of a model", "A budget of 1 %.", "latent", "kl &lt;-", "lost on the way"):
        assert text in page
