"""The numbers of docs/depth.md, read from the committed results, and its tables as Markdown.

`depth_figures.py` draws them and writes the page; tests/repo/test_depth_page.py holds the page to
the results. What has no result yet is a line that says so.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from open_mythos.errors import InputError
from open_mythos.eval.loop_curve import DepthMap
from open_mythos.suite.plan import Size, make_plan
from open_mythos.suite.verdict import share


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "depth.md"
# Where each part of the page has its numbers: the first of these files that is there.
TEXT = ("depth-text.json", "depth-text-4-epochs.json")
TASKS = ("depth-tasks.json", "depth-suite-pointer-16.json")
EXITS = ("depth-exits.json",)

# Tokens of training/prose.py's corpus, for telling epochs from tokens.
CORPUS_TOKENS = 6.7e6
ONE_PASS, UNTIED, OURS = "one-pass", "untied", "mythos"
DESIGNS = (ONE_PASS, UNTIED, "om05-fixed", "om05-random", "parcae", "huginn", OURS)
STORY = ("om05-fixed", "om05-random", OURS)
# Unshared depth pays where it lowers perplexity by this share; of less no share is worth telling.
PAYS = 0.05
NOTHING = "-"


def read(names: Sequence[str], folder: Path = RESULTS) -> dict[str, Any] | None:
    """The first of some results that is there; None: none is.

    Raises:
        InputError: If a file is no JSON.
    """
    for name in names:
        path = folder / name
        if path.is_file():
            try:
                found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise InputError(f"{path} is no JSON: {error}") from None
            return found
    return None


# -- numbers over seeds --------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """A number over seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def least(self) -> float:
        return min(self.values)

    @property
    def most(self) -> float:
        return max(self.values)

    def shown(self, form: str = ".2f") -> str:
        """The mean, and from where to where if seeds differ in what is shown."""
        least, most = format(self.least, form), format(self.most, form)
        alone = format(self.mean, form)
        return alone if least == most else f"{alone} ({least} to {most})"


# -- text ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """One arm at one number of training tokens: a run for each seed.

    Attributes:
        name: Of the arm.
        tokens: Seen in training.
        runs: Entries of the results file, by seed.
    """

    name: str
    tokens: int
    runs: Mapping[int, Mapping[str, Any]]

    @property
    def first(self) -> Mapping[str, Any]:
        return next(iter(self.runs.values()))

    @property
    def mean_loops(self) -> int:
        return round(self.first["mean_loops"])

    @property
    def loops(self) -> list[int]:
        """Loops at which every seed was measured."""
        each = [set(map(int, run["perplexity"])) for run in self.runs.values()]
        return sorted(set.intersection(*each))

    def at(self, n_loops: int) -> Spread:
        """Perplexity at so many loops."""
        return Spread(tuple(run["perplexity"][str(n_loops)] for run in self.runs.values()))

    def home(self) -> Spread:
        """Perplexity at the mean training loops, or at the nearest number measured."""
        return self.at(min(self.loops, key=lambda n: abs(n - self.mean_loops)))


@dataclass(frozen=True)
class Setting:
    """All arms that saw equally many tokens."""

    tokens: int
    arms: Mapping[str, Arm]

    @property
    def name(self) -> str:
        return f"{self.tokens / CORPUS_TOKENS:.0f} epochs, {self.tokens / 1e6:.0f}M tokens"

    @property
    def parts(self) -> list[Arm]:
        """Arms that are ours but for some settings."""
        return [arm for name, arm in self.arms.items() if name not in DESIGNS]

    def over_one_pass(self, arm: Arm) -> Spread | None:
        """Perplexity over that of one pass, as a share; seed by seed where both have it."""
        return self._paired(arm, (ONE_PASS,), lambda own, one: own / one - 1.0)

    def gap_closed(self, arm: Arm) -> Spread | None:
        """Share of the way from one pass to unshared depth; None where depth hardly pays."""
        untied = self.arms.get(UNTIED)
        gain = None if untied is None else self.over_one_pass(untied)
        if gain is None or gain.mean > -PAYS:
            return None
        return self._paired(
            arm, (ONE_PASS, UNTIED), lambda own, one, deep: (one - own) / (one - deep)
        )

    def over_ours(self, arm: Arm) -> Spread | None:
        """Perplexity over that of our arm, as a share."""
        return self._paired(arm, (OURS,), lambda own, ours: own / ours - 1.0)

    def _paired(self, arm: Arm, beside: Sequence[str], made: Callable[..., float]) -> Spread | None:
        """A function of an arm's perplexity and others', each at its mean loops."""
        others = [self.arms.get(name) for name in beside]
        if any(other is None for other in others):
            return None
        whole = [other for other in others if other is not None]
        seeds = [s for s in arm.runs if all(s in other.runs for other in whole)]
        if not seeds:
            return Spread((made(arm.home().mean, *(other.home().mean for other in whole)),))

        def home(one: Arm, seed: int) -> float:
            return Arm(one.name, one.tokens, {seed: one.runs[seed]}).home().mean

        return Spread(tuple(made(home(arm, s), *(home(o, s) for o in whole)) for s in seeds))


def settings(document: Mapping[str, Any] | None) -> list[Setting]:
    """The settings of a text result, from few tokens to many; arms in a fixed order."""
    runs = [] if document is None else document.get("arms", [])
    grouped: dict[int, dict[str, dict[int, Any]]] = {}
    for run in runs:
        arms = grouped.setdefault(run["tokens"], {})
        arms.setdefault(run["arm"], {})[run["seed"]] = run

    def place(name: str) -> int:
        return DESIGNS.index(name) if name in DESIGNS else len(DESIGNS)

    return [
        Setting(tokens, {n: Arm(n, tokens, arms[n]) for n in sorted(arms, key=place)})
        for tokens, arms in sorted(grouped.items())
    ]


def changed(arm: Arm, base: Arm) -> str:
    """What an arm's recipe has that another's has not, as `model.injection=add`."""
    own, other = (flat(one.first["recipe"]) for one in (arm, base))
    names = [n for n in own if own[n] != other.get(n) and n not in ("name", "seed", "device")]
    return ", ".join(f"{n.removeprefix('model.')}={own[n]}" for n in names) or "nothing"


def flat(tree: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """A tree of settings as `a.b.c` -> value."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{under}{name}.")
        else:
            found[f"{under}{name}"] = value
    return found


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


@dataclass(frozen=True)
class Learner:
    """A design on a task.

    Attributes:
        task: Name of the task.
        design: Name of the design.
        maps: Accuracy by difficulty and loops, by seed.
        trained: The hardest difficulty and the most loops in training.
        lost: By seed, accuracy lost by four times the loops that a problem needs, where asked.
        size: Of the suite, which has two tasks of one name.
    """

    task: str
    design: str
    maps: Mapping[int, DepthMap]
    trained: Mapping[str, int]
    lost: tuple[float, ...]
    size: Size = "gpu"

    @property
    def difficulties(self) -> tuple[int, ...]:
        return next(iter(self.maps.values())).difficulties

    @property
    def loops(self) -> tuple[int, ...]:
        return next(iter(self.maps.values())).loops

    def over_chance(self, difficulty: int, n_loops: int) -> Spread:
        """Accuracy as a share of what there is to gain over chance."""
        floor = problem(self.task, self.size)[0](difficulty)
        return Spread(tuple(share(m.at(difficulty, n_loops), floor) for m in self.maps.values()))

    @property
    def tied(self) -> bool:
        """Whether the loops alone say the difficulty."""
        return problem(self.task, self.size)[1]

    def own_loops(self, difficulty: int) -> int:
        """As many loops as the difficulty; of those asked the next; the most, if none is."""
        enough = [n for n in self.loops if n >= difficulty]
        return min(enough) if enough else self.loops[-1]


def learners(document: Mapping[str, Any] | None) -> dict[str, dict[str, Learner]]:
    """Task -> design -> what was learnt."""
    grouped: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for cell in cells(document or {}):
        grouped.setdefault((cell["task"], cell["design"]), {})[cell["seed"]] = cell
    found: dict[str, dict[str, Learner]] = {}
    for (task, design), seeds in grouped.items():
        first = next(iter(seeds.values()))
        lost = [cell.get("beyond", {}).get("lost") for cell in seeds.values()]
        found.setdefault(task, {})[design] = Learner(
            task,
            design,
            {seed: DepthMap.from_json(cell["map"]) for seed, cell in seeds.items()},
            first["trained"],
            tuple(value for value in lost if value is not None),
            (document or {}).get("size", "gpu"),
        )
    return found


def cells(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trainings of a suite.json, or of several in one file."""
    found = list(document.get("cells", []))
    for value in document.values():
        if isinstance(value, Mapping):
            found += cells(value)
    return found


@cache
def problem(task: str, size: Size) -> tuple[Callable[[int], float], bool]:
    """Of a task of the suite: accuracy without reading a row, and if loops alone say how hard.

    Raises:
        ConfigError: If there is no such task.
    """
    plan = make_plan(size, tasks=[task], designs=[OURS], seeds=1)
    return plan.problems[task].task.chance_at, plan.cells[0].trained.per_level > 0


def tasks_table(found: Mapping[str, Mapping[str, Learner]]) -> str:
    """Accuracy over chance at 1, 2 and 4 times the trained difficulty, by loops."""
    rows = [learner_row(task, one) for task, designs in found.items() for one in designs.values()]
    if not rows:
        return "No task results yet."
    head = [
        "task (trained on)", "design", "seeds", "1 x", "2 x", "4 x", "hardest", "4 x, most loops",
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
    far = 4 * most if 4 * most in learner.difficulties else None
    told = learner.tied or far is None
    long = NOTHING if told else learner.over_chance(far or 0, learner.loops[-1]).shown(".3f")
    lost = f"{100 * max(learner.lost):.1f}" if learner.lost else NOTHING
    return [
        f"{task} ({most})", learner.design, str(len(learner.maps)), *cells_,
        f"{end}: {hardest}", long, lost,
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
