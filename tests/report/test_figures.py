from itertools import pairwise
from pathlib import Path

import pytest

from open_mythos.eval.halting import LoopUse
from open_mythos.eval.loop_curve import DepthMap, LoopCurve, LoopPoint
from open_mythos.report import figures as draw


METRICS = [
    *({"kind": "step", "step": s, "loss": 1.0 / s, "rho_a": 0.1, "level": 1} for s in range(1, 9)),
    {"kind": "eval", "step": 8, "values": {}},
]
USE = LoopUse(2, 10, (0.25, 1.0), 1.75, (1.0, 2.0), ((0.5, 0.5), (0.1, 0.9)))


def test_smoothing_keeps_a_constant_and_starts_without_bias() -> None:
    assert draw.smooth([3.0] * 5) == pytest.approx([3.0] * 5)
    assert draw.smooth([7.0, 1.0])[0] == 7.0
    rising = draw.smooth([float(i) for i in range(50)])
    assert all(a < b < i + 1 for i, (a, b) in enumerate(pairwise(rising)))


def test_lines_show_the_given_points() -> None:
    lines = {"a": [(1, 0.5), (8, 0.9)], "b": [(1, 0.4), (8, 0.1)]}
    axes = draw.marks_figure(lines, 4, "loops", "accuracy", chance=0.25).axes[0]
    shown = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(shown["a"]) == [0.5, 0.9]
    assert list(shown["b"]) == [0.4, 0.1]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "8"]


def test_heat_maps_show_the_given_cells() -> None:
    found = DepthMap("x", (1, 2), (1, 4), ((0.9, 0.8), (0.2, 0.7)), 5)
    image = draw.depth_figure(found).axes[0].images[0]
    assert image.get_array().tolist() == [[0.9, 0.8], [0.2, 0.7]]
    assert draw.experts_figure(USE).axes[0].images[0].get_array().tolist()[1] == [0.1, 0.9]
    halting = draw.halting_figure([[0.25, 1.0], [0.5, 0.5]], ["0>1", "0?"]).axes[0]
    assert halting.images[0].get_array().tolist() == [[0.25, 1.0], [0.5, 0.5]]
    assert halting.yaxis_inverted()


def test_curves_plot_perplexity(tmp_path: Path) -> None:
    curve = LoopCurve("text", (LoopPoint(1, 2.0, 0.3, 9), LoopPoint(4, 1.5, 0.4, 9)))
    figure = draw.curve_figure(curve, 4)
    shown = figure.axes[0].lines[0].get_ydata()
    assert list(shown) == pytest.approx([p.perplexity for p in curve.points])
    others = {
        "loss": draw.training_figure({"run": METRICS}, "loss", "loss"),
        "rho": draw.radius_figure({"run": METRICS}),
        "curve": figure,
    }
    draw.save_figures(others, tmp_path / "figures")
    for name in others:
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_number_of_every_loop_is_drawn_where_it_is_one() -> None:
    axes = draw.loops_figure((1.0, 2.0, float("nan"), float("inf"), 0.0, 3.0), 2, "rms").axes[0]
    line, depth = axes.lines
    assert list(line.get_xdata()) == [1, 2, 6]
    assert list(line.get_ydata()) == [1.0, 2.0, 3.0]
    assert list(depth.get_xdata()) == [2, 2]
    assert axes.get_yscale() == "linear"
    assert draw.loops_figure((1.0, 0.01), 1, "residual").axes[0].get_yscale() == "log"
    assert len(draw.loops_figure((float("nan"),), 1, "rms").axes[0].lines) == 1


def test_a_histogram_has_a_bar_for_every_loop() -> None:
    axes = draw.histogram_figure((0.25, 0.0, 0.75), 2).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.25, 0.0, 0.75]
    assert [bar.get_x() + bar.get_width() / 2 for bar in axes.patches] == pytest.approx([1, 2, 3])
