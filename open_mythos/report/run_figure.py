"""A picture of runs: their curves side by side, and how the loss fell at every depth."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from open_mythos.errors import InputError
from open_mythos.report.figures import COLOURS, MAP, Axes, Figure, Metrics, smooth, steps_of


Points = tuple[list[int], list[float]]
Runs = Mapping[str, Metrics]
Draw = Callable[[Figure, Axes], None]

COLUMNS = 3
PANEL = (4.4, 2.6)  # inches
# Points of a line; more are not to be told apart, and make an SVG of megabytes.
DRAWN = 2000
DEPTH = re.compile(r"(.+)/(loss|accuracy)_at_(\d+)")


@dataclass(frozen=True)
class Panel:
    """A number of the step records, drawn for every run.

    Attributes:
        key: The record's field.
        label: What the axis says.
        smoothed: Whether a mean is drawn over the pale raw line.
        log: Whether the axis is logarithmic.
        judged: Name of the evaluation number that is drawn beside it, as dots.
    """

    key: str
    label: str
    smoothed: bool = True
    log: bool = False
    judged: str = ""


PANELS = (
    Panel("loss", "loss (dots: held out)", judged="loss"),
    Panel("accuracy", "accuracy (dots: held out)", judged="accuracy"),
    Panel("level", "level", smoothed=False),
    Panel("given_loops", "loops given"),
    Panel("mean_loops", "loops used"),
    Panel("rho_a", "rho(A)", smoothed=False),
    Panel("grad_norm", "gradient norm", log=True),
    Panel("lr", "learning rate", smoothed=False),
    Panel("tokens_per_second", "tokens/s"),
    Panel("mfu", "MFU"),
    Panel("router_entropy", "evenness of experts, 1 is even"),
    Panel("router_peak", "busiest expert / mean"),
)


def run_figure(runs: Runs) -> Figure:
    """Every number that says something of one of the runs, in a panel of its own.

    Raises:
        InputError: If no run has a step.
    """
    curves = _curves(runs)
    drawers: list[Draw] = [*curves[:1], *_depths(runs), *_bits(runs), *curves[1:]]
    if not any(steps_of(metrics, "loss")[0] for metrics in runs.values()):
        raise InputError(f"there is no step in {', '.join(runs)}; has the run begun?")
    rows = -(-len(drawers) // COLUMNS)
    figure = Figure(figsize=(PANEL[0] * COLUMNS, PANEL[1] * rows + 0.4), layout="constrained")
    if len(runs) == 1:
        figure.suptitle(next(iter(runs)), fontsize=10)
    for number, draw in enumerate(drawers, start=1):
        axes = figure.add_subplot(rows, COLUMNS, number)
        axes.grid(visible=True, alpha=0.25, linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        draw(figure, axes)
    return figure


@dataclass(frozen=True)
class Curves:
    """Draws one panel.

    Attributes:
        panel: What it shows.
        runs: Of which runs.
    """

    panel: Panel
    runs: Runs

    def __call__(self, figure: Figure, axes: Axes) -> None:  # noqa: ARG002 -- as every drawer
        """Draw it."""
        panel = self.panel
        for (name, metrics), style in zip(self.runs.items(), styles(), strict=False):
            steps, values = steps_of(metrics, panel.key)
            if panel.smoothed:
                axes.plot(*thin(steps, values), alpha=0.2, linewidth=0.8, color=style["color"])
                values = smooth(values)
            axes.plot(*thin(steps, values), label=name, linewidth=1.3, **style)
            if panel.judged:
                at, found = judged(metrics, panel.judged)
                axes.plot(at, found, "o", markersize=3.5, color=style["color"])
        if panel.log:
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel(panel.label)
        if len(self.runs) > 1 and panel.key == "loss":
            axes.legend(frameon=False, fontsize=8)


@dataclass(frozen=True)
class Bits:
    """Draws bits per byte of held-out text."""

    runs: Runs

    def __call__(self, figure: Figure, axes: Axes) -> None:  # noqa: ARG002 -- as every drawer
        """Draw it."""
        for metrics, style in zip(self.runs.values(), styles(), strict=False):
            axes.plot(*judged(metrics, "bits_per_byte"), marker="o", markersize=3.5, **style)
        axes.set_xlabel("step")
        axes.set_ylabel("bits per byte, held out")


@dataclass(frozen=True)
class Depths:
    """Draws a score against loops: of one run at every evaluation, of several at their last.

    Attributes:
        judge: The evaluator.
        score: "loss" or "accuracy".
        runs: Of which runs.
    """

    judge: str
    score: str
    runs: Runs

    def __call__(self, figure: Figure, axes: Axes) -> None:
        """Draw it."""
        found = {name: by_depth(m, self.judge, self.score) for name, m in self.runs.items()}
        ticks = sorted({n for curves in found.values() for curve in curves.values() for n in curve})
        if len(found) == 1:
            self._over_time(figure, axes, next(iter(found.values())))
        else:
            for (name, curves), style in zip(found.items(), styles(), strict=False):
                last = curves[max(curves)] if curves else {}
                axes.plot(*_line(last), label=name, marker="o", markersize=3.5, **style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("loops")
        axes.set_ylabel(f"{self.judge}: {self.score}")

    def _over_time(
        self, figure: Figure, axes: Axes, curves: Mapping[int, Mapping[int, float]]
    ) -> None:
        """Early lines dark, late ones bright."""
        first, last = min(curves), max(curves)
        colours = axes.scatter([], [], c=[], cmap=MAP, vmin=first, vmax=max(last, first + 1))
        for step, curve in curves.items():
            (colour,) = colours.to_rgba(np.array([step]))
            axes.plot(*_line(curve), color=colour, marker="o", markersize=3.5)
        figure.colorbar(colours, ax=axes, label="step")


def styles() -> Iterator[dict[str, Any]]:
    """Colour and dash of each run; six colours, then the same in other dashes."""
    for dash in cycle(("-", "--", ":", "-.")):
        for colour in COLOURS:
            yield {"color": colour, "linestyle": dash}


def thin(steps: Sequence[int], values: Sequence[float]) -> Points:
    """Every so many points, and the last."""
    every = -(-len(steps) // DRAWN) or 1
    kept = sorted({*range(0, len(steps), every), *range(len(steps))[-1:]})
    return [steps[i] for i in kept], [values[i] for i in kept]


def judged(metrics: Metrics, name: str) -> Points:
    """Steps and means, over evaluators, of the evaluation numbers called `name`."""
    steps, means = [], []
    for record in metrics:
        if record.get("kind") != "eval":
            continue
        named = [v for k, v in record["values"].items() if k.rpartition("/")[2] == name]
        found = [float(v) for v in named if v is not None]
        if found:
            steps.append(int(record["step"]))
            means.append(sum(found) / len(found))
    return steps, means


def by_depth(metrics: Metrics, judge: str, score: str) -> dict[int, dict[int, float]]:
    """Step -> loops -> score, of the evaluations that looked at several depths."""
    curves: dict[int, dict[int, float]] = {}
    for record in metrics:
        for key, value in record.get("values", {}).items() if record.get("kind") == "eval" else ():
            match = DEPTH.fullmatch(key)
            if match and match[1] == judge and match[2] == score and value is not None:
                curves.setdefault(int(record["step"]), {})[int(match[3])] = float(value)
    return {step: dict(sorted(curve.items())) for step, curve in curves.items()}


def _curves(runs: Runs) -> list[Curves]:
    """The panels with something to say; loops used only where positions halt before they must."""

    def says(panel: Panel) -> bool:
        found = [steps_of(metrics, panel.key)[1] for metrics in runs.values()]
        if panel.key == "level":
            return any(max(values, default=0.0) > 0.0 for values in found)
        if panel.key == "mean_loops":
            given = [steps_of(metrics, "given_loops")[1] for metrics in runs.values()]
            return found != given
        return any(found)

    return [Curves(panel, runs) for panel in PANELS if says(panel)]


def _bits(runs: Runs) -> list[Bits]:
    return [Bits(runs)] if any(judged(m, "bits_per_byte")[0] for m in runs.values()) else []


def _depths(runs: Runs) -> list[Depths]:
    keys = [key for m in runs.values() for record in m for key in record.get("values", ())]
    matches = dict.fromkeys((m[1], m[2]) for key in keys if (m := DEPTH.fullmatch(key)))
    return [Depths(judge, score, runs) for judge, score in matches]


def _line(curve: Mapping[int, float]) -> Points:
    return list(curve), list(curve.values())
