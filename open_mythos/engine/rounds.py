"""Rounds: coda, choice of a token, prelude and loops of rows that stay on the device between them.

No number of a round comes from the host: who takes part in what follows from a table of the rows'
state. So rounds can be launched, and captured, before anybody knows what the last one said.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import cast

import torch
from torch import Tensor

from open_mythos.engine.bookkeeping import Book, landed, numbers_of, picked, said, turned
from open_mythos.engine.call import Call, fillers
from open_mythos.engine.lanes import Party
from open_mythos.engine.stages import Stages
from open_mythos.engine.thresholds import Thresholds
from open_mythos.generate.draws import Wishes, choose_by
from open_mythos.generate.noise import Purpose
from open_mythos.kernels.columns import LOOPING, WIDTH, At, Out
from open_mythos.nn.loop.exiting import Leave
from open_mythos.nn.loop.exits.criterion import Criterion


class Real(IntEnum):
    """Columns of what rows ask for in fractions."""

    THRESHOLD = 0
    TEMPERATURE = 1
    TOP_P = 2
    MIN_P = 3


@dataclass(frozen=True)
class Shape:
    """All that a round follows from beside numbers on the device.

    Attributes:
        rows: Rows that take part, fillers included.
        picks: Rows that may leave and enter the loop, at most.
        width: Blocks that a row looks at, at most.
        turns: Loops.
        straight: Whether all rows run so many loops, and none leaves early: a round is then a token
            of everybody.
        kind: Of exit by which rows leave; None: none does.
        draws: Whether a row draws its tokens.
        filters: Whether one asks for a filter of what it draws from.
    """

    rows: int
    picks: int
    width: int
    turns: int
    straight: bool
    kind: type[Criterion] | None
    draws: bool
    filters: bool


class Rounds:
    """The state of rows that stay on the device, and what a round does to it.

    Attributes:
        stages: The network.
        state: (rows + 1, WIDTH) int64, the last row nobody's.
        real: (rows + 1, 4) float64.
        members: (rows,) int64, rows that take part, filled up with nobody's.
        out: (6, rows) int64, what the last round said.
        book: Of all that.
        leave: How rows leave early, whatever their thresholds; None where none does.
    """

    def __init__(self, stages: Stages) -> None:
        """Nobody is here."""
        settings, self.stages = stages.settings, stages
        self.nobody, table = settings.rows, stages.tables.table
        self.state = table.new_zeros(self.nobody + 1, WIDTH)
        self.real = torch.zeros(self.nobody + 1, len(Real), dtype=torch.float64,
                                device=table.device)  # fmt: skip
        self.members = table.new_full((self.nobody,), self.nobody)
        self.out = table.new_zeros(len(Out), self.nobody)
        filler = fillers(settings, 1, table.device)
        self.book = Book(self.state, self.out, table, settings.block_size, filler)
        self.leave: Leave | None = None

    def run(self, members: Tensor, shape: Shape) -> None:
        """A round of `members` (rows,), each once but for nobody."""
        if shape.straight:
            self._say(members, shape)
            return
        parties = [Party(self._leave(members), int(self.leave is not None))]
        self._land(members, shape, noted=self.stages.notes(party.leave for party in parties))
        self._loop(members, shape, parties)

    def _say(self, members: Tensor, shape: Shape) -> None:
        """A token of everybody; who is on his way through the loop starts anew."""
        call = _call(numbers_of(self.book, members, None), shape)
        logits = self.stages.logits(self.stages.straight(call, shape.turns))
        said(self.book, members, *self._chosen(logits, members, shape), shape.turns)

    def _land(self, members: Tensor, shape: Shape, *, noted: bool) -> None:
        """Coda and choice for rows that have left the loop, prelude for those that go on."""
        stages = self.stages
        rows, numbers = picked(self.book, members, shape.picks)
        call = _call(numbers, shape)
        chosen = self._chosen(stages.logits(stages.coda(call)), rows, shape)
        read = stages.read(call.lanes) if noted else None
        stages.enter(_call(landed(self.book, rows, *chosen, read), shape))

    def _loop(self, members: Tensor, shape: Shape, parties: list[Party]) -> None:
        """Loops of all that are in it, and who leaves."""
        call = _call(numbers_of(self.book, members, LOOPING), shape)
        gone = self.stages.loop(call, parties, shape.turns)
        if self.stages.early and (self.leave is not None or self._halting):
            # Nobody's rows have one loop, and so none to deepen.
            self.stages.pages.deepen_rows(call.numbers[2], gone, call.ends)
        turned(self.book, members, gone, shape.turns)

    def _chosen(self, logits: Tensor, rows: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
        """The next token of each row, and whether its logits are numbers."""
        wishes = self._wishes(rows) if shape.draws else None
        return choose_by(logits, wishes, filters=shape.filters), logits.sum(-1).isfinite()

    @property
    def _halting(self) -> bool:
        return self.stages.model.cfg.readout != "last"

    def _leave(self, members: Tensor) -> Leave | None:
        """How `members` leave, each by its own threshold."""
        if self.leave is None:
            return None
        limits = self.real[:, Real.THRESHOLD].index_select(0, members).unsqueeze(1)
        rule = cast("Criterion", self.leave.exit)
        return replace(self.leave, exit=Thresholds(rule, limits))

    def _wishes(self, rows: Tensor) -> Wishes:
        now = self.state.index_select(0, rows)
        real = self.real.index_select(0, rows).float()
        columns = (At.SEED_LOW, At.SEED_HIGH, At.SAID, At.INDEX)
        names = [now[:, at] for at in columns]
        names.append(torch.full_like(names[0], int(Purpose.TOKEN)))
        return Wishes(
            temperature=real[:, Real.TEMPERATURE],
            top_k=now[:, At.TOP_K],
            top_p=real[:, Real.TOP_P],
            min_p=real[:, Real.MIN_P],
            names=torch.stack(names, dim=1),
        )


def _call(numbers: Tensor, shape: Shape) -> Call:
    return Call((), (), numbers.shape[1], shape.width, (), numbers)
