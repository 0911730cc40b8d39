"""Rounds: coda, choice of a token, prelude and loops of rows that stay on the device between them.

No number of a round comes from the host: who takes part in what follows from a table of the rows'
state. So rounds can be launched, and captured, before anybody knows what the last one said.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import cast

import torch
from torch import Tensor

from open_mythos.engine.call import Call, fillers
from open_mythos.engine.lanes import Party
from open_mythos.engine.stages import Stages
from open_mythos.engine.thresholds import Thresholds
from open_mythos.generate.draws import Wishes, choose_by
from open_mythos.generate.noise import Purpose
from open_mythos.nn.loop.exiting import Leave
from open_mythos.nn.loop.exits.criterion import Criterion


STOPS = 8  # tokens that may end a row's text; who names more waits for the host

# What a row does: nothing; it has a token to enter with; it is in the loop; it has left it.
IDLE, READY, LOOPING, LANDING = range(4)


class At(IntEnum):
    """Columns of the rows' state; those up to LEFT change from round to round."""

    STATUS = 0
    TOKEN = 1
    POSITION = 2
    DEPTH = 3  # loops done
    SAID = 4  # tokens of its text so far
    LEFT = 5  # loops after which it left the loop
    ENDS = 6  # loops at most
    MOST = 7  # tokens of its text at most
    COVERED = 8  # positions that it has blocks for
    SEED_LOW = 9
    SEED_HIGH = 10
    INDEX = 11
    TOP_K = 12
    STOPS = 13  # and the columns behind


WIDTH = At.STOPS + STOPS
CHANGING = At.LEFT + 1


class Real(IntEnum):
    """Columns of what rows ask for in fractions."""

    THRESHOLD = 0
    TEMPERATURE = 1
    TOP_P = 2
    MIN_P = 3


class Out(IntEnum):
    """Lines of what a round says, by row that it picked up."""

    ROW = 0
    TOKEN = 1
    LOOPS = 2
    READ = 3
    SOUND = 4
    WAITING = 5  # in its first place: rows that the next round can pick up


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
        leave: How rows leave early, whatever their thresholds; None where none does.
    """

    def __init__(self, stages: Stages) -> None:
        """Nobody is here."""
        settings, self.stages = stages.settings, stages
        self.nobody = settings.rows
        table = stages.tables.table
        self.state = table.new_zeros(self.nobody + 1, WIDTH)
        self.real = torch.zeros(self.nobody + 1, len(Real), dtype=torch.float64,
                                device=table.device)  # fmt: skip
        self.members = table.new_full((self.nobody,), self.nobody)
        self.out = table.new_zeros(len(Out), self.nobody)
        self.leave: Leave | None = None
        self._fillers = fillers(settings, 1, table.device)

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
        now = self.state.index_select(0, members)
        here = (now[:, At.STATUS] != IDLE) & (now[:, At.POSITION] < now[:, At.COVERED])
        call = self._call(members, here, now, shape.width)
        logits = self.stages.logits(self.stages.straight(call, shape.turns))
        loops = torch.full_like(members, shape.turns)
        chosen = self._chosen(logits, members, now, shape)
        self._keep(members, now, here, loops, chosen, None, READY)

    def _land(self, members: Tensor, shape: Shape, *, noted: bool) -> None:
        """Coda and choice for rows that have left the loop, prelude for those that go on."""
        stages, rows = self.stages, self._picked(members, shape.picks)
        now = self.state.index_select(0, rows)
        spoke = now[:, At.STATUS] == LANDING
        call = self._call(rows, spoke, now, shape.width)
        chosen = self._chosen(stages.logits(stages.coda(call)), rows, now, shape)
        read = stages.read(call.lanes) if noted else None
        now = self._keep(rows, now, spoke, now[:, At.LEFT], chosen, read, LOOPING)
        stages.enter(self._call(rows, now[:, At.STATUS] == LOOPING, now, shape.width))

    def _chosen(
        self, logits: Tensor, rows: Tensor, now: Tensor, shape: Shape
    ) -> tuple[Tensor, Tensor]:
        """The next token of each row, and whether its logits are numbers."""
        wishes = self._wishes(rows, now) if shape.draws else None
        return choose_by(logits, wishes, filters=shape.filters), logits.sum(-1).isfinite()

    def _keep(
        self,
        rows: Tensor,
        now: Tensor,
        spoke: Tensor,
        loops: Tensor,
        chosen: tuple[Tensor, Tensor],
        read: Tensor | None,
        onward: int,
    ) -> Tensor:
        """Write down tokens of rows that `spoke`; the state of all, those that go on `onward`."""
        token = torch.where(spoke, chosen[0], now[:, At.TOKEN])
        said, position = now[:, At.SAID] + spoke, now[:, At.POSITION] + spoke
        ended = (now[:, At.STOPS :] == token.unsqueeze(1)).any(1) | (said >= now[:, At.MOST])
        ended = (spoke & (ended | ~chosen[1])) | (now[:, At.STATUS] == IDLE)
        status = torch.where(position < now[:, At.COVERED], onward, READY)
        status, depth = torch.where(ended, IDLE, status), torch.zeros_like(said)
        lines = torch.where(spoke, rows, self.nobody), token, loops, depth if read is None else read
        self.out[: Out.WAITING, : len(rows)].copy_(torch.stack((*lines, chosen[1].long())))
        return self._put(rows, now, (status, token, position, depth, said, loops))

    def _loop(self, members: Tensor, shape: Shape, parties: list[Party]) -> None:
        """Loops of all that are in it, and who leaves."""
        now = self.state.index_select(0, members)
        status, depth, left = (now[:, at] for at in (At.STATUS, At.DEPTH, At.LEFT))
        here = status == LOOPING
        call = self._call(members, here, now, shape.width)
        gone = self.stages.loop(call, parties, shape.turns) * here
        if self.stages.early and (self.leave is not None or self._halting):
            self.stages.pages.deepen_rows(call.numbers[2], gone, call.ends)
        status = torch.where(gone > 0, LANDING, status)
        depth = depth + here * shape.turns
        left = torch.where(gone > 0, gone, left)
        now = self._put(members, now, (status, *now[:, 1:3].unbind(1), depth, now[:, 4], left))
        self.out[Out.WAITING, :1].copy_(_waiting(now).sum(0, keepdim=True))

    @property
    def _halting(self) -> bool:
        return self.stages.model.cfg.readout != "last"

    def _picked(self, members: Tensor, count: int) -> Tensor:
        """The first `count` of those that have left the loop or enter it; nobody fills them up."""
        wants = _waiting(self.state.index_select(0, members))
        if count == len(members):
            return torch.where(wants, members, self.nobody)
        place = wants.long().cumsum(0) - 1
        slot = torch.where(wants & (place < count), place, count)
        return members.new_full((count + 1,), self.nobody).scatter_(0, slot, members)[:count]

    def _call(self, rows: Tensor, here: Tensor, now: Tensor, width: int) -> Call:
        """The call of `rows` at their positions; those that are not `here` are nobody's."""
        table, size = self.stages.tables.table, self.stages.settings.block_size
        position = now[:, At.POSITION]
        index = (position // size).clamp(max=table.shape[1] - 1)
        block = table.view(-1).index_select(0, rows * table.shape[1] + index)
        numbers = torch.stack(
            (rows, position, block * size + position % size, now[:, At.DEPTH], now[:, At.ENDS],
             rows, now[:, At.TOKEN])
        )  # fmt: skip
        numbers = torch.where(here, numbers, self._fillers)
        return Call((), (), rows.shape[0], width, (), numbers)

    def _put(self, rows: Tensor, now: Tensor, changed: tuple[Tensor, ...]) -> Tensor:
        """Keep the columns that change; the state of `rows` after it."""
        fresh = torch.stack(changed, dim=1)
        self.state[:, :CHANGING].index_copy_(0, rows, fresh)
        return torch.cat((fresh, now[:, CHANGING:]), dim=1)

    def _leave(self, members: Tensor) -> Leave | None:
        """How `members` leave, each by its own threshold."""
        if self.leave is None:
            return None
        limits = self.real[:, Real.THRESHOLD].index_select(0, members).unsqueeze(1)
        rule = cast("Criterion", self.leave.exit)
        return replace(self.leave, exit=Thresholds(rule, limits))

    def _wishes(self, rows: Tensor, now: Tensor) -> Wishes:
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


def _waiting(now: Tensor) -> Tensor:
    """(n,) boolean: rows that a round can pick up; without a block for it, none can enter."""
    status = now[:, At.STATUS]
    covered = now[:, At.POSITION] < now[:, At.COVERED]
    return (status == LANDING) | ((status == READY) & covered)
