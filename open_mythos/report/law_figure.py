"""A picture of fitted laws: points, curves with their bands, and what the curves leave over."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_mythos.errors import InputError
from open_mythos.laws.fit import Fit
from open_mythos.laws.intervals import Bootstrap
from open_mythos.laws.law import TEST_TIME, Law
from open_mythos.report.figures import COLOURS, Axes, Figure


SIZE = (9.6, 3.8)  # inches
GRID = 80  # points of a curve
LEGEND = 12  # lines of a legend; more are not read
# What sets a network's colour apart, the first that the points have.
COLOURED_BY = ("mean_loops", "loops", "params")


def law_figure(found: Sequence[Bootstrap]) -> Figure:
    """Loss over loops at test time, over tokens otherwise, with residuals beside it.

    Raises:
        InputError: If there is nothing to draw.
    """
    if not found:
        raise InputError("there is no fit to draw")
    law = found[0].fit.law
    figure = Figure(figsize=SIZE, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    figure.suptitle(law.equation, fontsize=10)
    colours: dict[str, str] = {}
    palette = cycle(COLOURS)
    for one in found:
        for label, chosen in strands(one.fit):
            new = label not in colours
            if new:
                colours[label] = next(palette)
            style = {"color": colours[label], "label": label if new else None}
            _curve(left, one, chosen, style)
            _residuals(right, one.fit, chosen, colours[label])
    _finish(left, right, law)
    if len(colours) > 1:
        handles, labels = left.get_legend_handles_labels()
        left.legend(handles[:LEGEND], labels[:LEGEND], frameon=False, fontsize=8)
    return figure


def strands(fit: Fit) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """Points that differ by the axis alone, by rising axis, and what they are called."""
    axis, inputs = axis_of(fit.law), fit.points.inputs
    others = [name for name in fit.law.inputs if name != axis]
    groups: dict[tuple[float, ...], list[int]] = {}
    for index in range(len(fit.points)):
        groups.setdefault(tuple(float(inputs[n][index]) for n in others), []).append(index)
    for indices in groups.values():
        chosen = np.array(indices)[np.argsort(inputs[axis][indices], kind="stable")]
        if fit.law is TEST_TIME:
            yield fit.points.name, chosen
            continue
        name = next(n for n in COLOURED_BY if n in inputs)
        value = float(inputs[name][chosen[0]])
        unit = "parameters" if name == "params" else "loop" if value == 1.0 else "loops"
        yield f"{short(value)} {unit}", chosen


def axis_of(law: Law) -> str:
    """The input that is drawn from left to right."""
    return "loops" if law is TEST_TIME else "tokens"


def short(value: float) -> str:
    """A count as people write it: 2.5M, 20B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _curve(axes: Axes, found: Bootstrap, chosen: NDArray[np.intp], style: dict[str, Any]) -> None:
    law, points = found.fit.law, found.fit.points
    axis = axis_of(law)
    at = points.inputs[axis][chosen]
    axes.plot(at, points.loss[chosen], "o", markersize=4, color=style["color"])
    grid = np.geomspace(at[0], at[-1], GRID)
    inputs = {n: np.full(GRID, points.inputs[n][chosen[0]]) for n in law.inputs} | {axis: grid}
    axes.plot(grid, law.predict(found.fit.constants, inputs), linewidth=1.3, **style)
    low, high = found.band(inputs)
    axes.fill_between(grid, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _residuals(axes: Axes, fit: Fit, chosen: NDArray[np.intp], colour: str) -> None:
    at = fit.points.inputs[axis_of(fit.law)][chosen]
    axes.plot(at, 100.0 * fit.residuals[chosen], "o", markersize=4, color=colour)


def _finish(left: Axes, right: Axes, law: Law) -> None:
    for axes in (left, right):
        axes.grid(visible=True, alpha=0.25, linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.set_xlabel(axis_of(law))
        if law is TEST_TIME:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
        else:
            axes.set_xscale("log")
            low, high = axes.get_xlim()
            ticks = [m * 10.0**power for power in range(3, 16) for m in (1, 2, 5)]
            shown = [tick for tick in ticks if low <= tick <= high]
            axes.set_xticks(shown, [short(tick) for tick in shown])
            axes.minorticks_off()
    left.set_ylabel("loss")
    right.axhline(0.0, color="black", linewidth=0.8)
    right.set_ylabel("measured over law, %")
