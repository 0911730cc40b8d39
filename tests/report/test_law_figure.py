from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_mythos.errors import InputError
from open_mythos.laws.fit import fit
from open_mythos.laws.intervals import Bootstrap, bootstrap
from open_mythos.laws.law import TEST_TIME, TRAINING
from open_mythos.laws.points import Points
from open_mythos.report.law_figure import law_figure, short, strands


LOOPS = np.array([8.0, 1.0, 2.0, 4.0, 16.0, 3.0])


def curve(name: str, floor: float, noise: float = 0.01) -> Bootstrap:
    loss = TEST_TIME.predict({"Linf": floor, "Z": 1.0, "z": 0.5}, {"loops": LOOPS})
    points = Points(name, loss * (1 + noise * np.cos(7 * LOOPS)), {"loops": LOOPS})
    return bootstrap(fit(TEST_TIME, points), 20)


def grid() -> Bootstrap:
    means, tokens = (x.ravel() for x in np.meshgrid([2.0, 4.0, 8.0], [1e9, 4e9, 2e10]))
    inputs = {"mean_loops": means, "params": 1e8 + 2e7 * means, "tokens": tokens}
    loss = TRAINING.predict({"E": 2.4, "A": 8e5, "B": 6e3, "a": 0.78, "b": 0.45}, inputs)
    points = Points("training", loss * (1 + 1e-4 * np.cos(1e3 * loss)), inputs)
    return bootstrap(fit(TRAINING, points), 20)


def test_the_curve_goes_through_the_law_and_the_dots_are_the_points() -> None:
    found = curve("one", 2.0)
    left, right = law_figure([found]).axes
    dots, line = left.lines
    assert sorted(zip(*dots.get_data(), strict=True)) == sorted(
        zip(LOOPS, found.fit.points.loss, strict=True)
    )
    x, y = (np.asarray(part, dtype=float) for part in line.get_data())
    np.testing.assert_allclose(y, TEST_TIME.predict(found.fit.constants, {"loops": x}))
    assert (x[0], x[-1]) == pytest.approx((1.0, 16.0))
    low, high = found.band({"loops": x})
    corners: Any = left.collections[0].get_paths()[0].get_extents()
    assert (corners.ymin, corners.ymax) == pytest.approx((low.min(), high.max()))
    rest = right.lines[0].get_data()[1]
    np.testing.assert_allclose(np.sort(rest), np.sort(100 * found.fit.residuals))
    assert left.get_legend() is None


def test_several_runs_are_told_apart() -> None:
    left, _ = law_figure([curve("one", 2.0), curve("two", 1.0)]).axes
    legend = left.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
    assert len({line.get_color() for line in left.lines}) == 2


def test_training_has_a_curve_for_each_network_over_tokens() -> None:
    found = grid()
    left, _ = law_figure([found]).axes
    legend = left.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["2 loops", "4 loops", "8 loops"]
    assert left.get_xlabel() == "tokens"
    for label, chosen in strands(found.fit):
        assert found.fit.points.inputs["tokens"][chosen].tolist() == [1e9, 4e9, 2e10]
        assert {f"{m:g} loops" for m in found.fit.points.inputs["mean_loops"][chosen]} == {label}


def test_counts_are_short() -> None:
    values = (1.0, 12.0, 999.0, 2500.0, 3e6, 5e9, 1.25e12)
    assert [short(v) for v in values] == ["1", "12", "999", "2.5K", "3M", "5B", "1.25T"]


def test_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="no fit to draw"):
        law_figure([])


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_pictures_are_drawn_to_the_end(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"x.{suffix}"
    law_figure([grid()]).savefig(file)
    assert file.stat().st_size > 1000
