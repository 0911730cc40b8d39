"""The tables of docs/depth.md as Markdown, from the numbers of the committed results.

`depth_figures.py` writes the page; tests/repo/test_depth_page.py holds it to the results. What has
no result yet is a line that says so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depth_numbers import (
    DESIGNS,
    EXITS,
    ONE_PASS,
    OURS,
    RESULTS,
    ROOT,
    STORY,
    TASKS,
    TEXT,
    UNTIED,
    Arm,
    Learner,
    Setting,
    changed,
    learners,
    read,
    settings,
)

from open_mythos.errors import InputError


PAGE = ROOT / "docs" / "depth.md"
NOTHING = "-"


# -- text ----------------------------------------------------------------------------------------


def loops_table(all_settings: Sequence[Setting]) -> str:
    """Perplexity by loops, of the arms that the first story is about."""
    parts = []
    for setting in all_settings:
        shown = [setting.arms[name] for name in STORY if name in setting.arms]
        if not shown:
            continue
        loops = [n for n in (1, 2, 4, 8, 16, 32, 64) if all(n in arm.loops for arm in shown)]
        rows = [[arm.name, *(arm.at(n).shown() for n in loops)] for arm in shown]
        parts.append(titled(setting.name, ["loops", *map(str, loops)], rows))
    return "\n\n".join(parts) or "No text results yet."


def designs_table(all_settings: Sequence[Setting]) -> str:
    """Every design: its size, its perplexity at the mean loops, and how steady it is."""
    parts = []
    for setting in all_settings:
        rows = [design_row(setting, setting.arms[name]) for name in DESIGNS if name in setting.arms]
        head = [
            "arm", "seeds", "parameters", "MFLOP/token", "perplexity", "against one pass",
            "gap closed", "1 loop, times best", "half to 8x the mean",
        ]  # fmt: skip
        parts.append(titled(setting.name, head, rows))
    return "\n\n".join(parts) or "No text results yet."


def design_row(setting: Setting, arm: Arm) -> list[str]:
    curve = {n: arm.at(n).mean for n in arm.loops}
    best, mean = min(curve.values()), arm.mean_loops
    near = [value for n, value in curve.items() if mean / 2 <= n <= 8 * mean]
    looped = len(curve) > 1
    over, closed = setting.over_one_pass(arm), setting.gap_closed(arm)
    own = arm.name in (ONE_PASS, UNTIED)
    return [
        arm.name,
        str(len(arm.runs)),
        f"{arm.first['parameters'] / 1e6:.1f}M",
        f"{arm.first['flops_per_token'] / 1e6:.0f}",
        arm.home().shown(),
        NOTHING if over is None or arm.name == ONE_PASS else over.shown("+.1%"),
        NOTHING if closed is None or own else closed.shown(".0%"),
        f"{curve[1] / best:.2f}" if looped and 1 in curve else NOTHING,
        f"+{max(near) / best - 1.0:.1%}" if looped and near else NOTHING,
    ]


def parts_table(all_settings: Sequence[Setting]) -> str:
    """Arms that are ours but for one part."""
    tables = []
    for setting in all_settings:
        base = setting.arms.get(OURS)
        if base is None or not setting.parts:
            continue
        rows = [[OURS, "", base.home().shown(), "", *at_ends(base)]]
        for arm in setting.parts:
            over = setting.over_ours(arm)
            assert over is not None
            moved = over.shown("+.1%")
            rows.append([arm.name, changed(arm, base), arm.home().shown(), moved, *at_ends(arm)])
        head = ["arm", "changed", "perplexity", "against ours", "at 1 loop", "at 64"]
        tables.append(titled(setting.name, head, rows))
    return "\n\n".join(tables) or "No leave-one-out arms yet."


def at_ends(arm: Arm) -> list[str]:
    return [arm.at(n).shown() if n in arm.loops else NOTHING for n in (1, 64)]


# -- tasks ---------------------------------------------------------------------------------------


def tasks_table(found: Mapping[str, Mapping[str, Learner]]) -> str:
    """Accuracy over chance at 1, 2 and 4 times the trained difficulty, by loops."""
    rows = [learner_row(task, one) for task, designs in found.items() for one in designs.values()]
    if not rows:
        return "No task results yet."
    head = [
        "task (trained on)", "design", "seeds", "loops", "1 x", "2 x", "4 x", "hardest",
        "lost by 4 x the loops, points",
    ]  # fmt: skip
    return table(head, rows)


def learner_row(task: str, learner: Learner) -> list[str]:
    most = learner.trained["difficulty"]
    cells_ = []
    for factor in (1, 2, 4):
        d = factor * most
        known = d in learner.difficulties
        cells_.append(
            learner.over_chance(d, learner.own_loops(d)).shown(".3f") if known else NOTHING
        )
    end = learner.difficulties[-1]
    hardest = learner.over_chance(end, learner.own_loops(end)).shown(".3f")
    loops = "as many" if learner.tied and len(learner.loops) > 1 else str(learner.loops[-1])
    lost = f"{100 * max(learner.lost):.1f}" if learner.lost else NOTHING
    return [
        f"{task} ({most})", learner.design, str(len(learner.maps)), loops,
        *cells_, f"{end}: {hardest}", lost,
    ]  # fmt: skip


# -- exits ---------------------------------------------------------------------------------------


def exits_text_table(document: Mapping[str, Any] | None) -> str:
    """What was run on fresh text at every budget, and every exit by its scores beside it."""
    if document is None or "text" not in document:
        return "No exits on text yet."
    parts = []
    for found in document["text"]["depths"]:
        n = found["n_loops"]
        rows = [
            [percent(kept["budget"]), f"{kept['exit']}:{kept['threshold']:.3g}", *traded(kept, n)]
            for kept in found["kept"]
        ]
        head = ["budget", "exit, run", "mean loops", "fewer", "loss", "work"]
        parts.append(titled(f"{n} loops, loss {found['full']:.4f}", head, rows))
        parts.append(by_scores(found))
    return "\n\n".join(parts)


def traded(kept: Mapping[str, Any], n_loops: int) -> list[str]:
    return [
        f"{kept['mean_loops']:.2f}",
        f"{1 - kept['mean_loops'] / n_loops:.0%}",
        f"{kept['cost']:+.2%}",
        f"{kept['work']:.2f}",
    ]


def by_scores(found: Mapping[str, Any]) -> str:
    """Exits x budgets: mean loops, loss and work, from one pass at full depth."""
    budgets = sorted({k["budget"] for one in found["exits"].values() for k in one["kept"]})
    rows = []
    for name, one in found["exits"].items():
        known = {kept["budget"]: kept for kept in one["kept"]}
        rows.append([name, *(short(known.get(budget)) for budget in budgets)])
    title = "Every exit by its scores (mean loops, loss, work)"
    return titled(title, ["exit", *map(percent, budgets)], rows)


def short(kept: Mapping[str, Any] | None) -> str:
    if kept is None:
        return NOTHING
    return f"{kept['mean_loops']:.2f}, {kept['cost']:+.2%}, {kept['work']:.2f}"


def percent(budget: float) -> str:
    return f"{100 * budget:g} %"


def exits_tasks_table(document: Mapping[str, Any] | None) -> str:
    """What an exit does on each task."""
    found = {} if document is None else document.get("tasks", {})
    rows = []
    for name, one in found.items():
        for kept in one["kept"]:
            first, last = kept["levels"][0], kept["levels"][-1]
            ends = (
                f"{level['mean_loops']:.1f} at {level['difficulty']}" for level in (first, last)
            )
            rows.append([
                name, percent(kept["budget"]), f"{kept['exit']}:{kept['threshold']:.3g}",
                str(one["n_loops"]), f"{kept['mean_loops']:.1f}", ", ".join(ends),
                f"{kept['accuracy']:.4f} of {kept['full']:.4f}", f"{kept['lost_points']:.2f}",
                f"{kept['spearman']['answers']:.3f}",
            ])  # fmt: skip
    if not rows:
        return "No exits on tasks yet."
    head = [
        "task", "budget", "exit", "loops at most", "mean loops", "mean by difficulty", "accuracy",
        "points lost", "Spearman",
    ]  # fmt: skip
    return table(head, rows)


# -- Markdown ------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def titled(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column's head says what it is of."""
    return f"{title}:\n\n{table(head, rows)}"


# Name of a picture -> what it says to whoever cannot see it.
ALT = {
    "depth-text": "Perplexity at 1 to 64 loops of om05 trained at a fixed depth, om05 trained at "
    "drawn depths, and mythos",
    "depth-tasks": "Accuracy over chance against difficulty for every task, looped and unshared",
    "depth-text-designs": "Perplexity of every design at its mean loops, seeds as dots",
    "depth-text-parts": "Perplexity without each part over that with all of them, in percent",
    "depth-exits": "Left: loss over that of full depth against mean loops on text. Right: loops "
    "until the exit against difficulty on tasks",
}


def tables(folder: Path = RESULTS) -> dict[str, str]:
    """Every part of the page that is made, by the name of its markers: pictures and tables.

    A picture is linked to where it has something to draw.
    """
    text = settings(read(TEXT, folder))
    found = learners(read(TASKS, folder))
    exits = read(EXITS, folder) or {}
    parts = any(setting.parts and OURS in setting.arms for setting in text)
    return {
        "depth-loops": pictured("depth-text", loops_table(text), bool(text)),
        "depth-tasks": pictured("depth-tasks", tasks_table(found), bool(found)),
        "depth-designs": pictured("depth-text-designs", designs_table(text), bool(text)),
        "depth-parts": pictured("depth-text-parts", parts_table(text), parts),
        "depth-exits-text": pictured("depth-exits", exits_text_table(exits), bool(exits)),
        "depth-exits-tasks": exits_tasks_table(exits),
    }


def pictured(name: str, text: str, there: bool) -> str:
    return f"![{ALT[name]}](images/{name}.png)\n\n{text}" if there else text


def insert(page: str, made: Mapping[str, str]) -> str:
    """The page with each table between its markers, `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

    Raises:
        InputError: If a pair of markers is missing.
    """
    for name, text in made.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        head, starts, rest = page.partition(begin)
        _, ends, tail = rest.partition(end)
        if not (starts and ends):
            raise InputError(f"the page lacks {begin} and {end}; put both where that table belongs")
        page = f"{head}{begin}\n{text}\n{end}{tail}"
    return page
