"""KnowledgeHops: facts that only the weights can hold, and questions that chain them."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import numpy as np

from open_mythos.data.batch import IGNORE
from open_mythos.data.streams import Purpose, stream
from open_mythos.data.tasks.split import Ids
from open_mythos.data.tasks.task import Examples, GeneratedTask, check_settings, numbered
from open_mythos.errors import InputError


HeldOut = Literal["questions", "relations"]
# With fewer relations, the quarter of the pairs that is held out could be empty.
LEAST_RELATIONS = 8


@dataclass(frozen=True, kw_only=True)
class KnowledgeHops(GeneratedTask):
    """Whose teacher's neighbour's ...: compositions of relations that no row states.

    A world has E entities and R relations, each a permutation of the entities, fixed by `world`
    alone: training and evaluation, and runs of every seed, live in the same one. A question is an
    entity and k relations, k + 1 tokens; its last position is scored on the entity that they lead
    to (no shift). Questions of one relation are the facts, all of them trained. Longer ones are
    compositions, of which one in four is held out (Wang et al., "Grokked transformers", 2024, and
    Yao et al. 2025 study the same at two and more hops).

    Ids: 0 .. E - 1 the entities, E .. E + R - 1 the relations.

    Attributes:
        entities: E.
        relations: R.
        world: Which permutations are the facts.
        held_out: What is held out together: single "questions" (entity and relations), or
            sequences of "relations" with every entity.
        queries: Questions side by side in a row.
        batch_size: Rows.
        seed: Fixes, with the step, every training batch.
        max_level: Most relations of a training question.
        loops_per_level: Loops granted per relation while training; 0: the depth sampler decides.
        spare: Most loops beyond those, drawn for each batch.
        room: Positions of every row, which holds as many questions as fit, whatever `queries` says;
            0: rows are as long as their questions.
    """

    unit: ClassVar[str] = "relations"

    entities: int = 200
    relations: int = 10
    world: int = 0
    held_out: HeldOut = "questions"
    queries: int = 16
    batch_size: int = 64
    seed: int = 0
    max_level: int = 4
    loops_per_level: int = 0
    spare: int = 0
    room: int = 0

    def __post_init__(self) -> None:
        check_settings(self, entities=2, world=0, loops_per_level=0, spare=0, room=0)
        if self.held_out == "relations" and self.relations < LEAST_RELATIONS:
            raise InputError(
                f"relations is {self.relations}; to hold out sequences of them takes at least "
                f"{LEAST_RELATIONS}, or held_out='questions'"
            )

    @property
    def vocab_size(self) -> int:
        """Entities and relations."""
        return self.entities + self.relations

    @property
    def words(self) -> tuple[str, ...]:
        """Entities as `e0`, relations as `r0`."""
        return numbered(self.entities, "e") + numbered(self.relations, "r")

    @property
    def per_row(self) -> int:
        """Questions side by side."""
        return self.queries

    def beside(self, difficulty: int) -> int:
        """The questions, or as many as there is room for, one at least."""
        return max(1, self.room // (difficulty + 1)) if self.room else self.queries

    def row_length(self, difficulty: int) -> int:
        """The questions, one token longer than their relations; or the room."""
        return max(self.room, self.beside(difficulty) * (difficulty + 1))

    def chance_at(self, difficulty: int) -> float:  # noqa: ARG002 -- the same for all
        """One in E: permutations keep entities uniform."""
        return 1.0 / self.entities

    def instances(self, difficulty: int) -> int:
        """How many questions there are, or sequences of relations."""
        first = self.entities if self.held_out == "questions" else 1
        return int(first * self.relations**difficulty)

    def splits(self, difficulty: int) -> bool:
        """From two relations on: facts cannot be inferred, compositions are meant to be."""
        return difficulty >= 2

    def examples(self, draw: np.random.Generator, difficulty: int, count: int) -> Examples:
        """Questions, each scored on its last token."""
        known = facts(self.world, self.entities, self.relations)
        entity = draw.integers(self.entities, size=count)
        chain = draw.integers(self.relations, size=(count, difficulty))
        ids = np.concatenate([entity[:, None], chain + self.entities], axis=1)
        for hop in range(difficulty):
            entity = known[chain[:, hop], entity]
        targets = np.full_like(ids, IGNORE)
        targets[:, -1] = entity
        return Examples(ids, targets, key=ids if self.held_out == "questions" else chain)


@cache
def facts(world: int, entities: int, relations: int) -> Ids:
    """A world: facts[r, e] is where relation r leads from entity e."""
    draw = stream(world, Purpose.WORLD)
    return draw.permuted(np.tile(np.arange(entities), (relations, 1)), axis=1)
