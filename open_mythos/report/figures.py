"""Pictures of training and of depth; every function takes records and returns a figure."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from open_mythos.errors import MissingExtraError
from open_mythos.eval.halting import LoopUse
from open_mythos.eval.loop_curve import DepthMap, LoopCurve


try:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
except ImportError as error:  # matplotlib is an extra
    raise MissingExtraError("matplotlib", "plots", "drawing a report") from error


# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MAP = "viridis"
SMOOTHING = 0.9

Metrics = Sequence[Mapping[str, Any]]  # lines of a metrics.jsonl
Marks = Mapping[str, Sequence[tuple[int, float]]]  # label -> (x, y) points


def empty_axes(width: float = 6.0, height: float = 3.4) -> tuple[Figure, Axes]:
    """A figure of so many inches with one pair of axes, a light grid behind them."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True, alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def steps_of(metrics: Metrics, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one number of a run's step records, where it has one."""
    rows = [m for m in metrics if m.get("kind") == "step" and m.get(key) is not None]
    return [int(m["step"]) for m in rows], [float(m[key]) for m in rows]


def smooth(values: Sequence[float], weight: float = SMOOTHING) -> list[float]:
    """Exponential mean, without the bias towards its start."""
    total, mass, out = 0.0, 0.0, []
    for value in values:
        total, mass = weight * total + value, weight * mass + 1.0
        out.append(total / mass)
    return out


def training_figure(runs: Mapping[str, Metrics], key: str, label: str) -> Figure:
    """One number of several runs against the step; the smoothed line over the raw one."""
    figure, axes = empty_axes()
    for colour, (name, metrics) in zip(COLOURS, runs.items(), strict=False):
        steps, values = steps_of(metrics, key)
        axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
        axes.plot(steps, smooth(values), color=colour, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.legend(frameon=False)
    return figure


def radius_figure(runs: Mapping[str, Metrics]) -> Figure:
    """rho(A) of several runs against the step, with the bound 1 that it cannot reach."""
    figure, axes = empty_axes()
    for colour, (name, metrics) in zip(COLOURS, runs.items(), strict=False):
        steps, values = steps_of(metrics, "rho_a")
        if values:
            axes.plot(steps, values, color=colour, label=name)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle="--")
    axes.set_ylim(0.0, 1.08)
    axes.set_xlabel("step")
    axes.set_ylabel("rho(A)")
    axes.legend(frameon=False)
    return figure


def marks_figure(lines: Marks, trained: int, x: str, y: str, chance: float | None = None) -> Figure:
    """Several lines over a doubling axis, with the trained depth marked."""
    figure, axes = empty_axes()
    for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, marker="o", markersize=4, color=colour, label=name)
    ticks = sorted({px for points in lines.values() for px, _ in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.axvline(trained, color="black", linewidth=0.8, linestyle="--")
    axes.annotate(
        "trained up to here",
        (trained, 0.9),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        fontsize=8,
    )
    if chance is not None:
        axes.axhline(chance, color="grey", linewidth=0.8, linestyle=":", label="chance")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if len(lines) > 1:
        axes.legend(frameon=False, loc="center left", fontsize=8)
    return figure


def curve_figure(curve: LoopCurve, trained: int) -> Figure:
    """Perplexity against loops."""
    points = [(p.n_loops, p.perplexity) for p in curve.points]
    return marks_figure({curve.name: points}, trained, "loops", "perplexity")


def heat_figure(
    rows: Sequence[Sequence[float]],
    ylabels: Sequence[Any],
    xlabels: Sequence[Any],
    labels: tuple[str, str, str],
    top: float | None = 1.0,
) -> Figure:
    """A matrix of shares as a heat map; `labels` name the rows, the columns and the colour."""
    figure, axes = empty_axes(6.0, 0.9 + 0.32 * len(rows))
    axes.grid(visible=False)
    image = axes.imshow(rows, aspect="auto", cmap=MAP, vmin=0.0, vmax=top, origin="lower")
    axes.set_yticks(range(len(ylabels)), [str(label) for label in ylabels])
    axes.set_xticks(range(len(xlabels)), [str(label) for label in xlabels])
    axes.set_ylabel(labels[0])
    axes.set_xlabel(labels[1])
    figure.colorbar(image, ax=axes, label=labels[2])
    return figure


def depth_figure(found: DepthMap) -> Figure:
    """Accuracy by difficulty and loops."""
    return heat_figure(
        found.accuracy, found.difficulties, found.loops, ("hops", "loops", "accuracy")
    )


def halting_figure(spent: Sequence[Sequence[float]], labels: Sequence[str]) -> Figure:
    """By position, top to bottom, how much of its halting probability is spent by each loop."""
    figure = heat_figure(
        spent, labels, range(1, len(spent[0]) + 1), ("position", "loop", "spent by then")
    )
    axes = figure.axes[0]
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    figure.set_figheight(0.9 + 0.19 * len(labels))
    return figure


def experts_figure(use: LoopUse) -> Figure:
    """Which share of each loop's tokens each expert served."""
    experts = range(len(use.expert_load[0]))
    loops = range(1, use.n_loops + 1)
    return heat_figure(
        use.expert_load, loops, experts, ("loop", "expert", "share of tokens"), top=None
    )


def loops_figure(values: Sequence[float], trained: int, y: str) -> Figure:
    """One number of every loop, logarithmic where it runs over more than a decade."""
    figure, axes = empty_axes()
    known = [(t, v) for t, v in enumerate(values, start=1) if math.isfinite(v) and v > 0.0]
    if known:
        loops, shown = zip(*known, strict=True)
        axes.plot(loops, shown, marker="o", markersize=4, color=COLOURS[0])
        if max(shown) > 10.0 * min(shown):
            axes.set_yscale("log")
        else:
            axes.set_ylim(0.0, 1.15 * max(shown))
    axes.axvline(trained, color="black", linewidth=0.8, linestyle="--", label="trained depth")
    axes.set_xlabel("loop")
    axes.set_ylabel(y)
    axes.legend(frameon=False, fontsize=8)
    return figure


def histogram_figure(shares: Sequence[float], trained: int) -> Figure:
    """Share of the positions that took part in exactly so many loops."""
    figure, axes = empty_axes()
    axes.bar(range(1, len(shares) + 1), shares, color=COLOURS[0])
    axes.axvline(trained, color="black", linewidth=0.8, linestyle="--", label="trained depth")
    axes.set_ylim(0.0, 1.0)
    axes.set_xlabel("loops until a position halted (the last: or never)")
    axes.set_ylabel("share of positions")
    axes.legend(frameon=False, fontsize=8)
    return figure


def save_figures(figures: Mapping[str, Figure], folder: Path) -> None:
    """Write every figure as NAME.png, 150 dots per inch."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
