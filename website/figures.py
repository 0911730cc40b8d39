"""Figures of the results pages, drawn by matplotlib from the JSON under benchmarks/results."""

import io
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from website.canvas import BLUE, GREEN, GREY, ORANGE, PINK, SKY
from website.results import STOPPED, load


COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, GREY, "#000000")
Curve = tuple[str, Sequence[float], Sequence[float]]  # a name, and its points


def demo() -> Figure:
    """Accuracy against hops, as many loops as hops."""
    names = {"task": "mythos", "task-seed-design": "the seed's loop", STOPPED: "mythos, stopped"}
    found = load("demo-2cpu.json")["findings"]
    curves = [_curve(names.get(name, name), at) for name, at in found["accuracy"].items()]
    figure, axes = _axes("hops", "accuracy", curves)
    axes.axvline(found["trained_hops"], color=GREY, linestyle=":", label="hardest trained")
    _legend(axes)
    return figure


def pointer_16() -> Figure:
    """Accuracy of designs against hops, mean of the seeds."""
    found = load("depth-suite-pointer-16.json")
    at = {
        summary["design"]: {h: a["mean"] for h, a in summary["accuracy"].items()}
        for part in ("one_seed", "three_seeds")  # the latter replaces the former
        for summary in found[part]["findings"]["summaries"]
    }
    figure, axes = _axes("hops = loops", "accuracy", [_curve(n, a) for n, a in at.items()])
    trained = found["three_seeds"]["cells"][0]["trained"]["difficulty"]
    axes.axvline(trained, color=GREY, linestyle=":", label="hardest trained")
    _legend(axes)
    return figure


def text_prose() -> Figure:
    """Perplexity against loops; networks that do not loop as level lines."""
    arms = load("depth-text-4-epochs.json")["arms"]
    looped = [_curve(a["arm"], a["perplexity"]) for a in arms if len(a["perplexity"]) > 1]
    figure, axes = _axes("loops", "held-out perplexity", looped)
    for number, arm in enumerate(a for a in arms if len(a["perplexity"]) == 1):
        axes.axhline(
            arm["perplexity"]["1"], color="#000000", linestyle=("--", ":")[number % 2],
            linewidth=1, label=f"{arm['arm']}, {arm['parameters'] / 1e6:.0f}M",
        )  # fmt: skip
    _legend(axes)
    return figure


def text_120m() -> Figure:
    """Held-out loss against loops, at every second evaluation."""
    curves = []
    for one in load("text-120m-h100.json")["evaluations"][::-2][::-1]:
        at = {k.rpartition("_")[2]: v for k, v in one.items() if "loss_at_" in k}
        curves.append(_curve(f"step {one['step']:,}", at))
    return _axes("loops", "held-out nats a token", curves)[0]


def _curve(name: str, at: Mapping[str, float]) -> Curve:
    return name, [float(x) for x in at], list(at.values())


def _axes(across: str, up: str, curves: Sequence[Curve]) -> tuple[Figure, Axes]:
    """Curves over a logarithmic axis whose ticks are the numbers that were measured."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for colour, (name, x, y) in zip(COLOURS, curves, strict=False):
        axes.plot(x, y, marker="o", markersize=3.5, color=colour, label=name)
    axes.set_xscale("log", base=2)
    ticks = sorted({x for _, xs, _ in curves for x in xs if x.is_integer() and not _crowded(x)})
    axes.set_xticks(ticks, [f"{x:.0f}" for x in ticks])
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(visible=True, alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _legend(axes)
    return figure, axes


def _legend(axes: Axes) -> None:
    """Names beside the axes, where they hide no curve."""
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _crowded(x: float) -> bool:
    """Whether a tick is left out: not a power of two."""
    return bool(int(x) & (int(x) - 1))


FIGURES: dict[str, Callable[[], Figure]] = {
    "demo": demo,
    "pointer-16": pointer_16,
    "text-prose": text_prose,
    "text-120m": text_120m,
}


def svg(figure: Figure) -> str:
    """A figure as a file's text: the same for the same numbers, without the day of drawing."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "results", "font.size": 9}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
