"""VariableChain: programs of assignments, x = 3; y = x; z = y, asked for what z is."""

from dataclasses import dataclass
from math import factorial
from typing import ClassVar, Literal

import numpy as np

from open_mythos.data.batch import IGNORE
from open_mythos.data.tasks.pointer import Layout
from open_mythos.data.tasks.split import Ids
from open_mythos.data.tasks.task import Examples, GeneratedTask, check_settings, lettered, numbered


Order = Literal["program", "shuffled"]


@dataclass(frozen=True, kw_only=True)
class VariableChain(GeneratedTask):
    """Variables defined by values or by each other; what is asked lies exactly d assignments deep.

    A row assigns each of V variables once. Those of depth 1 get a value, those of depth j a
    variable of depth j - 1, about equally many at every depth up to d; who gets whom is drawn, so
    most of the assignments have nothing to do with a given question. With `roots` so many variables
    get a value at every d above 1; without, long chains leave few, and at d = V only one, which
    then is the answer whatever is asked. Then variables of depth d are
    asked, each scored on its value at its own position (no shift).

    Layouts, with V variables, M values and Q queries:
        "pairs": 2V + Q positions: each assignment is two tokens, left and right. Variable v is id
            v, value m is id V + m.
        "joint": V + Q positions: each is the one token left * (V + M) + right; asked variables
            and answers are shifted by V * (V + M).

    Attributes:
        variables: V, and the deepest chain there is.
        values: M.
        queries: Q.
        batch_size: Rows.
        seed: Fixes, with the step, every training batch.
        layout: See above.
        order: "program" (defined before it is used) or "shuffled".
        roots: Variables that get a value, where d is above 1; 0: V / d.
        max_level: Deepest d in training.
        loops_per_level: Loops granted per assignment while training; 0: the depth sampler decides.
        spare: Most loops beyond those, drawn for each batch.
    """

    unit: ClassVar[str] = "depth"

    variables: int = 16
    values: int = 8
    queries: int = 16
    batch_size: int = 64
    seed: int = 0
    layout: Layout = "pairs"
    order: Order = "program"
    roots: int = 0
    max_level: int = 4
    loops_per_level: int = 0
    spare: int = 0

    def __post_init__(self) -> None:
        check_settings(self, values=2, roots=0, loops_per_level=0, spare=0)
        self.require(self.max_level)

    @property
    def offset(self) -> int:
        """Id of variable 0 where it is asked."""
        return self.variables * (self.variables + self.values) if self.layout == "joint" else 0

    @property
    def vocab_size(self) -> int:
        """Variables and values, and every assignment where it is one token."""
        return self.offset + self.variables + self.values

    @property
    def words(self) -> tuple[str, ...]:
        """Variables by letter, values by number, assignments as `b=a`."""
        names, values = lettered(self.variables), numbered(self.values)
        pairs = tuple(f"{left}={right}" for left in names for right in names + values)
        return (pairs if self.layout == "joint" else ()) + names + values

    @property
    def max_difficulty(self) -> int | None:
        """All variables in one chain, but for the roots of others."""
        return self.variables - max(0, self.roots - 1)

    def row_length(self, difficulty: int) -> int:  # noqa: ARG002 -- the same for all
        """The assignments and the queries."""
        return self.variables * (1 if self.layout == "joint" else 2) + self.queries

    def chance_at(self, difficulty: int) -> float:  # noqa: ARG002 -- the same for all
        """One in M: values are uniform."""
        return 1.0 / self.values

    def instances(self, difficulty: int) -> int:
        """At least as many programs as names in order over chains, and a value for each chain."""
        chains = self.variables // difficulty
        return int(factorial(self.variables) // factorial(chains) * self.values**chains)

    def examples(self, draw: np.random.Generator, difficulty: int, count: int) -> Examples:
        """Programs; who is assigned what, in any order, is what the split goes by."""
        shape = (count, self.variables)
        starts = self._starts(difficulty)
        names = draw.permuted(np.tile(np.arange(self.variables), (count, 1)), axis=1)
        right, value = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
        time = draw.random(shape)
        value[:, : starts[1]] = draw.integers(self.values, size=(count, starts[1]))
        right[:, : starts[1]] = value[:, : starts[1]] + self.variables
        for level in range(1, difficulty):
            here = slice(starts[level], starts[level + 1])
            width = starts[level + 1] - starts[level]
            parent = draw.integers(starts[level - 1], starts[level], size=(count, width))
            right[:, here] = np.take_along_axis(names, parent, axis=1)
            value[:, here] = np.take_along_axis(value, parent, axis=1)
            after = np.take_along_axis(time, parent, axis=1)
            # A moment between the definition and the end of the program.
            time[:, here] = after + (1.0 - after) * time[:, here]
        if self.order == "shuffled":
            time = draw.random(shape)
        asked = draw.integers(starts[-2], self.variables, size=(count, self.queries))
        return self._written(names, right, value, np.argsort(time, axis=1, kind="stable"), asked)

    def _starts(self, difficulty: int) -> list[int]:
        """Where each depth begins among variables listed by depth, and where the last ends."""
        if not self.roots or difficulty == 1:
            return [-(-self.variables * level // difficulty) for level in range(difficulty + 1)]
        rest, above = self.variables - self.roots, difficulty - 1
        return [0] + [self.roots - (-rest * level // above) for level in range(difficulty)]

    def _written(self, names: Ids, right: Ids, value: Ids, order: Ids, asked: Ids) -> Examples:
        """The program as tokens: what was drawn is listed by depth, `order` says how it reads."""
        left, given = (np.take_along_axis(part, order, axis=1) for part in (names, right))
        if self.layout == "joint":
            shown = left * (self.variables + self.values) + given
        else:
            shown = np.stack([left, given], axis=-1).reshape(len(names), -1)
        questions = np.take_along_axis(names, asked, axis=1) + self.offset
        answers = np.take_along_axis(value, asked, axis=1) + self.variables + self.offset
        by_name = np.empty_like(right)
        np.put_along_axis(by_name, names, right, axis=1)
        return Examples(
            ids=np.concatenate([shown, questions], axis=1),
            targets=np.concatenate([np.full_like(shown, IGNORE), answers], axis=1),
            key=by_name,
        )
