"""MixedTasks: several tasks for one model, each step one of them, in one vocabulary."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.streams import require_whole
from open_mythos.data.tasks.induction import InductionHops
from open_mythos.data.tasks.knowledge import KnowledgeHops
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.data.tasks.prefix import PrefixParity, PrefixProduct, PrefixSum
from open_mythos.data.tasks.task import Examples, GeneratedTask, check_settings


Only = Literal["all", "words", "knowledge", "p-hop", "sums", "parity", "pointer"]
Extent = Literal["small", "full"]

# Positions in which a problem of four times the trained difficulty, 8, has its place.
ROOM = 66
# The word of a prompt that is none of the tasks'.
UNKNOWN = "?"
# What the tasks are of one extent: their class, and its settings beside rows, seed, and spare loops
# for those whose rows say their difficulty.
Part = tuple[type[GeneratedTask], dict[str, Any]]
TIED = ("p-hop", "pointer")
PARTS: dict[Extent, dict[str, Part]] = {
    "full": {
        "words": (PrefixProduct, {"group": "a5", "room": ROOM, "max_level": 8}),
        "knowledge": (
            KnowledgeHops,
            {"entities": 64, "relations": 16, "room": ROOM, "max_level": 8},
        ),
        "p-hop": (InductionHops, {"symbols": 3, "length": 192, "max_level": 8, "ring": 40}),
        "sums": (PrefixSum, {"modulus": 7, "room": ROOM, "max_level": 8}),
        "parity": (PrefixParity, {"length": 8, "start": True, "room": ROOM}),
        "pointer": (PointerChase, {"states": 16, "queries": 34, "max_hops": 8, "split": True}),
    },
    "small": {
        "words": (PrefixProduct, {"group": "s3", "room": 18, "max_level": 4}),
        "knowledge": (KnowledgeHops, {"entities": 8, "relations": 4, "room": 18, "max_level": 4}),
        "p-hop": (InductionHops, {"symbols": 3, "length": 40, "max_level": 4, "ring": 20}),
        "sums": (PrefixSum, {"modulus": 5, "room": 18, "max_level": 4}),
        "parity": (PrefixParity, {"length": 4, "start": True, "room": 18}),
        "pointer": (
            PointerChase,
            {"states": 7, "queries": 24, "max_hops": 4, "layout": "joint", "maps": "cycle"},
        ),
    },
}


@dataclass(frozen=True, kw_only=True)
class MixedTasks(GeneratedTask):
    """Products, known relations, p-hop, sums, parity and pointers: step s is of the task s mod 6.

    Each task keeps its own settings, rows, curriculum (`course`) and loops: one for each unit of
    difficulty. Its ids are its own, behind those of the tasks before it, so that any token says
    which task its row is of, and nothing else has to. Of the tasks one, `only`, may be left: what a
    model that learnt all of them is examined on.

    Attributes:
        only: The one task to draw from; "all" takes turns.
        extent: "full": trained on difficulties of up to 8, with room for 32; "small": 4 and 16.
        batch_size: Rows.
        seed: Fixes, with the step, every training batch.
        spare: Most loops beyond those granted, where a row says its difficulty; p-hop and pointers
            are told by their loops.
    """

    only: Only = "all"
    extent: Extent = "full"
    batch_size: int = 64
    seed: int = 0
    spare: int = 8

    unit: ClassVar[str] = "levels"

    def __post_init__(self) -> None:
        check_settings(self, spare=0)

    @cached_property
    def parts(self) -> dict[str, GeneratedTask]:
        """All tasks by name, in the order of their ids and of their turns."""
        made: dict[str, GeneratedTask] = {}
        for name, (kind, settings) in PARTS[self.extent].items():
            loops = {} if name == "pointer" else {"loops_per_level": 1}
            spare = {} if name in TIED else {"spare": self.spare}
            common = {"batch_size": self.batch_size, "seed": self.seed}
            made[name] = kind(**settings, **loops, **spare, **common)
        return made

    @cached_property
    def offsets(self) -> dict[str, int]:
        """First id of each task."""
        sizes = [part.vocab_size for part in self.parts.values()]
        return dict(zip(self.parts, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))

    @property
    def chosen(self) -> tuple[str, ...]:
        """The tasks that are drawn from."""
        return tuple(self.parts) if self.only == "all" else (self.only,)

    def alone(self, name: str) -> "MixedTasks":
        """The same with one task alone to draw from.

        Raises:
            InputError: If there is no such task.
        """
        return replace(self, only=name)  # type: ignore[arg-type]

    @property
    def first(self) -> GeneratedTask:
        """The first of those, for what all have alike."""
        return self.parts[self.chosen[0]]

    def course(self, step: int) -> str:
        """The task of a step, which has a level of its own in the curriculum."""
        return self.chosen[step % len(self.chosen)]

    @property
    def vocab_size(self) -> int:
        """The ids of all tasks, whatever is drawn from, and that of UNKNOWN."""
        return sum(part.vocab_size for part in self.parts.values()) + 1

    @property
    def words(self) -> tuple[str, ...]:
        """Those of each task behind its name, `sums:3`; at the end one that no row holds."""
        named = (f"{name}:{word}" for name, part in self.parts.items() for word in part.words)
        return (*named, UNKNOWN)

    @property
    def max_level(self) -> int:
        """One for all tasks."""
        return self.first.max_level

    @property
    def max_difficulty(self) -> int | None:
        """The least of the tasks'."""
        ends = [self.parts[name].max_difficulty for name in self.chosen]
        return min((end for end in ends if end is not None), default=None)

    def row_length(self, difficulty: int) -> int:
        """Of the longest rows."""
        return max(self.parts[name].row_length(difficulty) for name in self.chosen)

    def chance_at(self, difficulty: int) -> float:
        """The mean of the tasks' chances, each weighing the same."""
        chances = [self.parts[name].chance_at(difficulty) for name in self.chosen]
        return sum(chances) / len(chances)

    def loops_for(self, difficulty: int) -> int | None:
        """One for each unit of difficulty, in every task."""
        return self.first.loops_for(difficulty)

    @property
    def most_spare(self) -> int:
        """None, unless every task drawn from has some."""
        return min(self.parts[name].most_spare for name in self.chosen)

    def instances(self, difficulty: int) -> int:
        """Of the task that has the fewest."""
        return min(self.parts[name].instances(difficulty) for name in self.chosen)

    def splits(self, difficulty: int) -> bool:
        """Whether every task does."""
        return all(self.parts[name].splits(difficulty) for name in self.chosen)

    def whole_batch(self, step: int, level: int) -> Batch:
        """The batch of the task whose turn it is."""
        name = self.course(step)
        return self._moved(self.parts[name].batch(step, level), name)

    def evaluation_batch(self, difficulty: int, /, seed: int = 0) -> Batch:
        """Held-out rows; of all tasks, those of the seed-th, in turn.

        Raises:
            InputError: When the difficulty does not exist, or seed is negative.
        """
        require_whole("seed", seed, least=0)
        name = self.course(seed)
        drawn = self.parts[name].evaluation_batch(difficulty, seed // len(self.chosen))
        return self._moved(drawn, name)

    def examples(self, draw: np.random.Generator, difficulty: int, count: int) -> Examples:
        """Examples of one task, which the draw picks: the rows of different tasks differ."""
        name = self.chosen[int(draw.integers(len(self.chosen)))]
        found = self.parts[name].examples(draw, difficulty, count)
        offset = self.offsets[name]
        targets = np.where(found.targets == IGNORE, IGNORE, found.targets + offset)
        return found._replace(ids=found.ids + offset, targets=targets)

    def _moved(self, batch: Batch, name: str) -> Batch:
        """A task's batch in the ids that are its own here."""
        offset = self.offsets[name]
        scored = batch.targets != IGNORE
        return replace(
            batch,
            ids=batch.ids + offset,
            targets=(batch.targets + offset).where(scored, batch.targets),
        )
