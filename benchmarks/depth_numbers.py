"""The numbers of docs/depth.md, read from the committed results: arms on text, learners of tasks.

`depth_tables.py` writes them as Markdown, `depth_figures.py` draws them.
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
# Where each part of the page has its numbers: the first of these files that is there.
TEXT = ("depth-text.json", "depth-text-4-epochs.json")
TASKS = ("depth-tasks.json", "depth-suite-pointer-16.json")
EXITS = ("depth-exits.json",)

# Tokens of training/prose.py's corpus, for telling epochs from tokens.
CORPUS_TOKENS = 6.7e6
ONE_PASS, UNTIED, OURS = "one-pass", "untied", "mythos"
DESIGNS = (ONE_PASS, UNTIED, "om05-fixed", "om05-random", "parcae", "huginn", OURS)
STORY = ("om05-fixed", "om05-random", "fixed", OURS)
# Unshared depth pays where it lowers perplexity by this share; of less no share is worth telling.
PAYS = 0.05


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
        epochs, amount = round(self.tokens / CORPUS_TOKENS), f"{self.tokens / 1e6:.0f}M tokens"
        return f"{epochs} epochs, {amount}" if epochs else amount

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
        """As many loops as the difficulty; where the row says that, the most that were asked."""
        return self.as_many(difficulty) if self.tied else self.loops[-1]

    def as_many(self, difficulty: int) -> int:
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
