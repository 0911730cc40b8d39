"""Draw every figure of docs/depth.md, and write its tables, from the committed results.

    python benchmarks/depth_figures.py            # docs/images/depth-*.png, and docs/depth.md
    python benchmarks/depth_figures.py --tables   # the page's tables alone; needs no matplotlib

A figure whose results are not there yet is left out, with a line that says which file it waits for.
What the numbers are: benchmarks/depth_numbers.py.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import depth_numbers as told  # beside this file
import depth_tables

from open_mythos.errors import InputError, MythosError


IMAGES = told.ROOT / "docs" / "images"
# Pictures are 830 pixels wide on a README; at this many inches, letters of 9 points stay readable.
WIDTH, DPI = 8.0, 120
MOST_BYTES = 150_000

# Okabe and Ito's palette: every arm keeps its colour in every picture, and a line style too.
STYLES: dict[str, tuple[str, str, str]] = {
    "mythos": ("#0072b2", "-", "o"),
    "om05-fixed": ("#d55e00", "--", "s"),
    "om05-random": ("#e69f00", "-.", "^"),
    "fixed": ("#56b4e9", (0, (3, 1, 1, 1)), "s"),  # type: ignore[dict-item]
    "om05": ("#d55e00", "--", "s"),
    "parcae": ("#009e73", ":", "D"),
    "huginn": ("#cc79a7", (0, (5, 1)), "v"),  # type: ignore[dict-item]
    "untied": ("#555555", "--", "x"),
    "one-pass": ("#999999", ":", "P"),
}
OTHERS = ("#56b4e9", "#000000", "#88802a")
NAMES = {
    "mythos": "mythos (ours)", "untied": "unshared blocks", "one-pass": "one pass",
    "om05-fixed": "om05, depth fixed", "fixed": "mythos, depth fixed",
    "om05-random": "om05, depth drawn",
}  # fmt: skip


def style(name: str, number: int = 0) -> dict[str, Any]:
    """Colour, line and mark of an arm."""
    colour, line, mark = STYLES.get(name, (OTHERS[number % len(OTHERS)], "-", "o"))
    front = 4 if name == told.OURS else 3
    return {"color": colour, "linestyle": line, "marker": mark, "markersize": 4, "zorder": front}


def called(name: str) -> str:
    return NAMES.get(name, name)


def grid(count: int, columns: int, height: float) -> tuple[Any, list[Any]]:
    """A figure of so many panels, and their axes."""
    from open_mythos.report.figures import Figure  # noqa: PLC0415 -- matplotlib is an extra

    columns = min(count, columns)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, height * rows), layout="constrained", dpi=DPI)
    axes = [figure.add_subplot(rows, columns, n + 1) for n in range(count)]
    for one in axes:
        one.grid(visible=True, alpha=0.25, linewidth=0.6)
        one.tick_params(labelsize=9)
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
    return figure, axes


def doubling(axes: Any, ticks: Sequence[int]) -> None:
    """A horizontal axis on which doubling is one step."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()


def band(axes: Any, xs: Sequence[float], values: Sequence[told.Spread], **how: Any) -> None:
    """Means over seeds, and from where to where they reach."""
    axes.plot(xs, [v.mean for v in values], linewidth=1.6, **how)
    if any(v.least != v.most for v in values):
        ends = [v.least for v in values], [v.most for v in values]
        axes.fill_between(xs, *ends, color=how["color"], alpha=0.18, linewidth=0)


# -- text ----------------------------------------------------------------------------------------


def loops_figure(all_settings: Sequence[told.Setting]) -> Any:
    """Perplexity against loops: the public failure, and its cure."""
    shown = [s for s in all_settings if any(name in s.arms for name in told.STORY)]
    if not shown:
        return None
    figure, axes = grid(len(shown), 2, 3.3)
    for setting, one in zip(shown, axes, strict=True):
        arms = [setting.arms[name] for name in told.STORY if name in setting.arms]
        for arm in arms:
            means = [arm.at(n) for n in arm.loops]
            band(one, arm.loops, means, label=called(arm.name), **style(arm.name))
        for name in (told.ONE_PASS, told.UNTIED):
            if name in setting.arms:
                level = setting.arms[name].home().mean
                look = style(name)
                one.axhline(
                    level, color=look["color"], linestyle=look["linestyle"], label=called(name)
                )
        spread = [v.mean for arm in arms for v in map(arm.at, arm.loops)]
        if max(spread) > 2.0 * min(spread):
            one.set_yscale("log")
            ticks = nice(min(spread), max(spread))
            one.set_yticks(ticks, [f"{t:g}" for t in ticks])
            one.minorticks_off()
        mean = arms[-1].mean_loops
        one.axvline(mean, color="black", linewidth=0.8, linestyle=":")
        one.annotate(
            "mean in training", (mean, 0.97), xycoords=("data", "axes fraction"), fontsize=8,
            xytext=(4, 0), textcoords="offset points", va="top",
        )  # fmt: skip
        doubling(one, [1, 2, 4, 8, 16, 32, 64])
        one.set_title(setting.name, fontsize=10)
        one.set_xlabel("loops when asked", fontsize=9)
    axes[0].set_ylabel("held-out perplexity", fontsize=9)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def nice(least: float, most: float) -> list[float]:
    """Round numbers from below `least` to above `most`, a factor of about 1.5 to 2 apart."""
    steps = [m * 10.0**e for e in range(-1, 5) for m in (1, 1.5, 2, 3, 5, 7)]
    return [s for s in steps if 0.9 * least <= s <= 1.1 * most]


def designs_figure(all_settings: Sequence[told.Setting]) -> Any:
    """Perplexity of every design at its mean loops, and the gap between one pass and depth."""
    if not all_settings:
        return None
    figure, axes = grid(len(all_settings), 2, 3.0)
    before: list[str] = []
    for setting, one in zip(all_settings, axes, strict=True):
        arms = [setting.arms[name] for name in told.DESIGNS if name in setting.arms]
        for y, arm in enumerate(arms):
            home, look = arm.home(), style(arm.name)
            dots(one, home, len(arms) - 1 - y, look)
            closed = setting.gap_closed(arm)
            own = arm.name in (told.ONE_PASS, told.UNTIED)
            note = "" if closed is None or own else f" ({closed.mean:.0%} of the gap)"
            one.annotate(
                f"{home.mean:.2f}{note}", (home.most, len(arms) - 1 - y), fontsize=8,
                xytext=(7, 0), textcoords="offset points", va="center",
            )  # fmt: skip
        ends = [setting.arms[n].home().mean for n in (told.ONE_PASS, told.UNTIED)
                if n in setting.arms]  # fmt: skip
        if len(ends) == 2 and ends[1] < ends[0]:
            one.axvspan(ends[1], ends[0], color="#999999", alpha=0.15, linewidth=0)
        names = [called(arm.name) for arm in arms][::-1]
        repeated = setting is not all_settings[0] and names == before
        one.set_yticks(range(len(arms)), [""] * len(arms) if repeated else names, fontsize=9)
        before = names
        left, right = one.get_xlim()
        one.set_xlim(left - 0.03 * (right - left), right + 0.6 * (right - left))
        one.set_ylim(-0.6, len(arms) - 0.4)
        one.set_title(setting.name, fontsize=10)
        one.set_xlabel("held-out perplexity at the mean loops", fontsize=9)
    return figure


def dots(axes: Any, value: told.Spread, y: float, look: Mapping[str, Any]) -> None:
    """Seeds as pale dots on a line, their mean as a mark."""
    axes.plot([value.least, value.most], [y, y], color=look["color"], linewidth=2, alpha=0.5)
    axes.plot(value.values, [y] * len(value.values), "o", color=look["color"], markersize=3,
              alpha=0.5)  # fmt: skip
    axes.plot([value.mean], [y], look["marker"], color=look["color"], markersize=7)


def parts_figure(all_settings: Sequence[told.Setting]) -> Any:
    """What each part of ours buys: perplexity without it, over that with it."""
    shown = [s for s in all_settings if s.parts and told.OURS in s.arms]
    if not shown:
        return None
    most = max(len(s.parts) for s in shown)
    figure, axes = grid(len(shown), 1, 0.9 + 0.34 * most)
    for setting, one in zip(shown, axes, strict=True):
        for y, arm in enumerate(reversed(setting.parts)):
            over = setting.over_ours(arm)
            assert over is not None
            points = told.Spread(tuple(100.0 * value for value in over.values))
            worse = style("om05-fixed" if points.mean > 0 else told.OURS)
            dots(one, points, y, worse)
            one.annotate(f"{points.mean:+.1f} %", (points.most, y), fontsize=8, va="center",
                         xytext=(7, 0), textcoords="offset points")  # fmt: skip
        one.axvline(0.0, color="black", linewidth=0.8)
        one.set_yticks(
            range(len(setting.parts)), [a.name for a in reversed(setting.parts)], fontsize=9
        )
        left, right = one.get_xlim()
        one.set_xlim(left, right + 0.15 * (right - left))
        one.set_ylim(-0.6, len(setting.parts) - 0.4)
        one.set_title(setting.name, fontsize=10)
    axes[-1].set_xlabel("perplexity over that of mythos as it is, %", fontsize=9)
    return figure


# -- tasks ---------------------------------------------------------------------------------------


def tasks_figure(found: Mapping[str, Mapping[str, told.Learner]]) -> Any:
    """Accuracy over chance against difficulty, task by task."""
    if not found:
        return None
    columns = 4 if len(found) > 3 else 3
    figure, axes = grid(len(found), columns, 2.2 if len(found) > columns else 3.0)
    labels: dict[str, Any] = {}
    for (task, designs), one in zip(found.items(), axes, strict=True):
        ticks: set[int] = set()
        for number, (name, learner) in enumerate(designs.items()):
            asked = learner.difficulties
            ticks |= set(asked)
            values = [learner.over_chance(d, learner.own_loops(d)) for d in asked]
            band(one, asked, values, label=called(name), **style(name, number))
            if name == told.OURS:
                stopped(one, learner)
        first = next(iter(designs.values()))
        one.axvline(first.trained["difficulty"], color="black", linewidth=0.8, linestyle=":")
        doubling(one, powers(ticks))
        one.set_ylim(-0.04, 1.04)
        one.set_title(task, fontsize=10)
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            labels.setdefault(label, handle)
    for one in axes[::columns]:
        one.set_ylabel("accuracy over chance", fontsize=9)
    figure.supxlabel("difficulty (dotted line: the hardest in training)", fontsize=9)
    figure.legend(labels.values(), labels, loc="outside upper center", ncols=4,
                  frameon=False, fontsize=9)  # fmt: skip
    return figure


def stopped(axes: Any, ours: told.Learner) -> None:
    """What ours would answer if it could not loop more than in training."""
    most = ours.trained["difficulty"]
    values = [ours.over_chance(d, ours.as_many(min(d, most))).mean for d in ours.difficulties]
    axes.plot(
        ours.difficulties, values, color=style(told.OURS)["color"], linestyle=":", linewidth=1.2,
        label=f"{told.OURS}, at most {most} loops",
    )  # fmt: skip


def powers(values: set[int]) -> list[int]:
    """The powers of two among some numbers, so that ticks do not crowd."""
    return [v for v in sorted(values) if v & (v - 1) == 0]


# -- exits ---------------------------------------------------------------------------------------


def exits_figure(document: Mapping[str, Any] | None) -> Any:
    """Loss against mean loops on text; mean loops against difficulty on tasks."""
    text = (document or {}).get("text")
    tasks = {n: t for n, t in (document or {}).get("tasks", {}).items() if t["kept"]}
    if text is None and not tasks:
        return None
    figure, axes = grid((text is not None) + bool(tasks), 2, 3.4)
    if text is not None:
        exits_on_text(axes[0], text["depths"][0])
    if tasks:
        exits_on_tasks(axes[-1], tasks)
    return figure


EXIT_STYLES = {
    "fixed": ("#555555", "--"), "latent": ("#0072b2", "-"), "settled": ("#56b4e9", "-"),
    "acceleration": ("#009e73", "-."), "kl": ("#d55e00", "-"), "entropy": ("#cc79a7", ":"),
    "stability": ("#e69f00", "-"),
}  # fmt: skip


def exits_on_text(axes: Any, found: Mapping[str, Any]) -> None:
    """Every exit's curve, and what was run at each budget."""
    top = 2.0
    for number, (name, one) in enumerate(found["exits"].items()):
        colour, line = EXIT_STYLES.get(name, (OTHERS[number % len(OTHERS)], ":"))
        points = sorted((mean, 100.0 * cost) for _, mean, cost in one["curve"])
        mark = "." if name in ("fixed", "stability") else ""
        axes.plot(*zip(*points, strict=True), line, color=colour, label=name, linewidth=1.4,
                  marker=mark)  # fmt: skip
    for kept in found["kept"]:
        axes.plot([kept["mean_loops"]], [100.0 * kept["cost"]], "k*", markersize=9, zorder=5)
        axes.annotate(
            f"{100 * kept['budget']:g} %: {kept['mean_loops']:.2f} loops", fontsize=8,
            xy=(kept["mean_loops"], 100.0 * kept["cost"]), xytext=(8, 3),
            textcoords="offset points",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
        )  # fmt: skip
    axes.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    axes.set_ylim(-0.1, top)
    axes.set_xlim(0.9, found["n_loops"] + 0.1)
    axes.set_xlabel(f"mean loops per token, of {found['n_loops']}", fontsize=9)
    axes.set_ylabel("loss over that of full depth, %", fontsize=9)
    axes.set_title("text (stars: run, by budget)", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def exits_on_tasks(axes: Any, tasks: Mapping[str, Any]) -> None:
    """Mean loops by difficulty, from the fifth to the ninety-fifth percent of answers."""
    colours = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
    marks = ("o", "s", "D", "v", "^", "P")
    ticks: set[int] = set()
    for (name, one), colour, mark in zip(tasks.items(), colours, marks, strict=False):
        kept = min(one["kept"], key=lambda k: abs(k["budget"] - 0.005))
        xs = [level["difficulty"] for level in kept["levels"]]
        ticks |= set(xs)
        axes.fill_between(
            xs, [v["loops_5"] for v in kept["levels"]], [v["loops_95"] for v in kept["levels"]],
            color=colour, alpha=0.12, linewidth=0,
        )  # fmt: skip
        axes.plot(
            xs, [v["mean_loops"] for v in kept["levels"]], marker=mark, color=colour, markersize=4,
            linewidth=1.4, label=f"{name}, Spearman {kept['spearman']['answers']:.2f}",
        )  # fmt: skip
    first = next(iter(tasks.values()))
    axes.axvline(first["trained"], color="black", linewidth=0.8, linestyle=":")
    doubling(axes, powers(ticks))
    axes.set_yscale("log", base=2)
    loops = [1, 2, 4, 8, 16, 32, 64]
    axes.set_yticks(loops, [str(n) for n in loops])
    axes.minorticks_off()
    axes.set_xlabel("difficulty (dotted line: the hardest in training)", fontsize=9)
    axes.set_ylabel("loops until the exit", fontsize=9)
    axes.set_title("tasks, an exit that stops by itself", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


# -- the command ---------------------------------------------------------------------------------


def figures(folder: Path) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Name -> figure, or None where there is nothing to draw; and the files it waits for."""
    text = told.settings(told.read(told.TEXT, folder))
    exits = told.read(told.EXITS, folder)
    return {
        "depth-text": (loops_figure(text), told.TEXT),
        "depth-tasks": (tasks_figure(told.learners(told.read(told.TASKS, folder))), told.TASKS),
        "depth-text-designs": (designs_figure(text), told.TEXT),
        "depth-text-parts": (parts_figure(text), (f"{told.TEXT[0]} with arms of --also",)),
        "depth-exits": (exits_figure(exits), told.EXITS),
    }


def draw(folder: Path, images: Path) -> None:
    """Every figure that has its results, as a small PNG.

    Raises:
        InputError: If one is too large for a page.
    """
    images.mkdir(parents=True, exist_ok=True)
    for name, (figure, files) in figures(folder).items():
        path = images / f"{name}.png"
        if figure is None:
            print(f"{name}: nothing to draw yet; it waits for {' or '.join(files)}")
            continue
        figure.savefig(path, dpi=DPI, pil_kwargs={"optimize": True})
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise InputError(f"{path} has {size} bytes; draw less, or at a lower resolution")
        print(f"{name}: {path.name}, {size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", action="store_true", help="write the page's tables alone")
    parser.add_argument("--results", type=Path, default=told.RESULTS)
    parser.add_argument("--images", type=Path, default=IMAGES)
    parser.add_argument("--page", type=Path, default=depth_tables.PAGE)
    args = parser.parse_args()
    try:
        if not args.tables:
            draw(args.results, args.images)
        page = args.page.read_text(encoding="utf-8")
        args.page.write_text(
            depth_tables.insert(page, depth_tables.tables(args.results)), encoding="utf-8"
        )
        print(f"{args.page.name}: tables written")
    except (MythosError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
