"""Residents: requests whose tokens follow one another on the device; the host reads behind."""

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from open_mythos.engine.flight import Track
from open_mythos.engine.lanes import START, kind_of
from open_mythos.engine.rounds import Rounds, Shape
from open_mythos.engine.runner import Runner
from open_mythos.engine.scheduler import Scheduler
from open_mythos.engine.writer import Writer
from open_mythos.generate.noise import LOW
from open_mythos.kernels.columns import READY, STOPS, At
from open_mythos.nn.loop.exits.criterion import Criterion
from open_mythos.nn.upload import upload


LEAST = 8  # rows of the smallest round: fewer take no less time


@dataclass(eq=False, slots=True)
class Seat:
    """A request's stay on the device.

    Attributes:
        track: Whose; it has left when the track's seat is another.
        writer: Its text.
        end: Positions that it can come to: its last token is never read.
        covered: Positions that it has blocks for.
        ample: Tokens up to which these are enough.
        draws: Whether it draws its tokens.
        filters: Whether it draws from some of them only.
        kind: Of exit by which it leaves.
    """

    track: Track
    writer: Writer
    end: int
    covered: int
    ample: int
    draws: bool
    filters: bool
    kind: type[Criterion] | None


@dataclass(slots=True)
class Launched:
    """A round under way.

    Attributes:
        seats: By row, who took part.
        shape: Of the round.
        out: What it says, on the host once it has `arrived`.
        arrived: None where it has long.
    """

    seats: dict[int, Seat]
    shape: Shape
    out: Tensor
    arrived: torch.cuda.Event | None


# Who said it; what; loops of the position that said it; loops after which it was read, 0 where that
# is all; 0 where its logits were no numbers.
Said = tuple[Seat, int, int, int, int]


class Residents:
    """Who stays on the device, and rounds under way.

    A round is launched before the host has read what the last ones said. Whoever ends, or is taken
    away, meanwhile goes on there for as long; what is read of him then is dropped, and his blocks
    may be given away at once: what another writes there comes later.

    Attributes:
        ahead: Rounds under way before the first of them is read.
        seats: By row.
        rounds: What lies on the device.
    """

    def __init__(self, runner: Runner, ahead: int) -> None:
        """Nobody is here."""
        self.runner, self.ahead = runner, ahead
        self.settings, self.stages = runner.settings, runner.stages
        self.seats: dict[int, Seat] = {}
        self.rounds = Rounds(self.stages)
        self._shown = False  # whether a round under way goes by `seats`
        self._kinds: set[type[Criterion]] = set()
        self._joining: list[Seat] = []
        self._grown: list[Seat] = []
        self._under_way: deque[Launched] = deque()
        self._room: list[Tensor] = []  # pinned, of rounds that have been read
        self._waiting = 0
        self._changed = False

    @property
    def busy(self) -> bool:
        """Whether somebody is here."""
        return bool(self.seats)

    def welcomes(self, track: Track, writer: Writer) -> bool:
        """Whether a request needs the host for nothing between two of its tokens."""
        asked = writer.asked.sampling
        if self.stages.model.recurrent.owning or not asked.plain or writer.guide is not None:
            return False
        if track.held or len(writer.ends) > STOPS:
            return False
        if track.leave is None:
            return True
        kind = kind_of(track.leave.exit)
        if not (isinstance(kind, type) and issubclass(kind, Criterion) and kind in START):
            return False
        if kind.done is not Criterion.done:  # thresholds by row are compared as that does
            return False
        return self._kinds <= {kind}

    def take(self, scheduler: Scheduler, track: Track, writer: Writer) -> None:
        """A request whose last token is to be read next; it has a row, and no flight."""
        asked = writer.asked.sampling
        kind = None if track.leave is None else cast("type[Criterion]", kind_of(track.leave.exit))
        seat = Seat(
            track=track,
            writer=writer,
            end=len(writer.asked.prompt) + writer.most - 1,
            covered=0,
            ample=0,
            draws=asked.temperature > 0.0,
            filters=asked.top_k > 0 or asked.top_p < 1.0 or asked.min_p > 0.0,
            kind=kind,
        )
        scheduler.sit(track, seat)
        if self._shown:  # a round under way goes by the old one
            self.seats, self._shown = dict(self.seats), False
        self.seats[track.row] = seat
        if kind is not None:
            self._kinds.add(kind)
        self._joining.append(seat)
        self._changed = True
        self._waiting += 1
        self.provide(scheduler, seat)

    def sweep(self) -> None:
        """Forget those who have left."""
        self.seats = {row: seat for row, seat in self.seats.items() if seat.track.seat is seat}
        self._kinds = {seat.kind for seat in self.seats.values() if seat.kind is not None}
        self._shown = False
        self._joining = [seat for seat in self._joining if seat.track.seat is seat]
        self._grown = [seat for seat in self._grown if seat.track.seat is seat]
        self._changed = True
        if not self.seats:  # what is under way is about nobody
            self._under_way.clear()
            self._waiting = 0

    def provide(self, scheduler: Scheduler, seat: Seat) -> None:
        """Blocks for the next position, and for those that may be reached unseen if there are."""
        known, before = len(seat.track.tokens), seat.covered
        scheduler.provide(seat.track, known, min(known + self.ahead + 1, seat.end))
        seat.covered = len(seat.track.blocks) * self.settings.block_size
        seat.ample = known if seat.covered < seat.end else seat.end
        seat.ample = max(seat.ample, seat.covered - self.ahead - 1)
        if seat.covered != before:
            self._grown.append(seat)

    # -- rounds ----------------------------------------------------------------------------------

    def collect(self) -> list[Said]:
        """What rounds said, the first waited for where enough are under way."""
        said: list[Said] = []
        while self._under_way:
            first = self._under_way[0]
            if first.arrived is not None and len(self._under_way) >= self.ahead:
                first.arrived.synchronize()
            elif len(self._under_way) < self.ahead and not _here(first):
                break
            self._under_way.popleft()
            self._read(first, said)
        return said

    def _read(self, launched: Launched, said: list[Said]) -> None:
        lines = launched.out[:, : launched.shape.picks].tolist()
        waiting = lines.pop()[0]
        self._waiting = len(self.seats) if launched.shape.straight else waiting
        seats, nobody = launched.seats, self.rounds.nobody
        said += [
            (seats[row], token, loops, read, sound)
            for row, token, loops, read, sound in zip(*lines, strict=True)
            if row != nobody
        ]
        if launched.arrived is not None:
            self._room.append(launched.out)

    def launch(self) -> int:
        """Rounds until enough are under way; the loops that they run."""
        self._flush()
        turns = 0
        while self.seats and len(self._under_way) < self.ahead:
            shape = self._shape()
            self._run(shape)
            self._under_way.append(self._sent(shape))
            turns += shape.turns
        return turns

    def _run(self, shape: Shape) -> None:
        rounds, graphs = self.rounds, self.runner.graphs
        members = rounds.members[: shape.rows]
        if graphs is None:
            rounds.run(members, shape)
            return
        if rounds.leave is not None:
            self.stages.lanes.prepare(rounds.leave.exit)
        graphs.launch(
            shape,
            lambda: rounds.run(torch.full_like(members, rounds.nobody), shape),
            lambda: rounds.run(members, shape),
        )

    def _sent(self, shape: Shape) -> Launched:
        """What a round says, on its way to the host."""
        out, self._shown = self.rounds.out, True
        if not out.is_cuda:
            return Launched(self.seats, shape, out.clone(), None)
        if not self._room:
            self._room.append(torch.empty(out.shape, dtype=out.dtype, pin_memory=True))
        room = self._room.pop()
        room.copy_(out, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return Launched(self.seats, shape, room, arrived)

    def _shape(self) -> Shape:
        """Of the next round; all depend on what was read last, none on what is under way."""
        rows = self._rows
        turns, picks = self._turns, rows
        if not self._together:
            expected = self._waiting + self._waiting // 4
            half = max(rows // 2, 1)
            picks = half if expected <= half else rows
        return Shape(
            rows, picks, self._width(), turns, self._straight, self._kind, self._draws,
            self._filters,
        )  # fmt: skip

    def _width(self) -> int:
        pages = self.stages.pages
        if pages.reached:
            return pages.width(1)
        return pages.width(max(len(seat.track.blocks) for seat in self.seats.values()))

    def _flush(self) -> None:
        """Bring the device up to date with who is here, and which blocks they have."""
        device = self.rounds.members.device
        if self._grown:
            self.stages.tables.follow(seat.track for seat in self._grown)
        joining, grown = self._joining, self._grown
        self._joining, self._grown = [], []
        if joining:
            rows = upload([seat.track.row for seat in joining], device)
            state = upload([_state(seat) for seat in joining], device, torch.int64)
            real = upload([_real(seat) for seat in joining], device, torch.float64)
            self.rounds.state.index_copy_(0, rows, state)
            self.rounds.real.index_copy_(0, rows, real)
        self._cover([seat for seat in grown if seat not in joining])
        if self._changed:
            self._changed = False
            self._count()

    def _cover(self, grown: Sequence[Seat]) -> None:
        if not grown:
            return
        covered = {seat.track.row: seat.covered for seat in grown}
        rows, ends = upload([list(covered), list(covered.values())],
                            self.rounds.members.device).unbind()  # fmt: skip
        self.rounds.state[:, At.COVERED].index_copy_(0, rows, ends)

    def _count(self) -> None:
        """What all that are here have in common."""
        seats, most = list(self.seats.values()), self.settings.rows
        if not seats:
            return
        power = 1 << (max(len(seats), LEAST) - 1).bit_length()
        self._rows = min(power, most)
        nobody = self.rounds.nobody
        rows = [*self.seats, *[nobody] * (most - len(seats))]
        self.rounds.members.copy_(upload(rows, self.rounds.members.device, torch.int64))
        self._draws = any(seat.draws for seat in seats)
        self._filters = any(seat.draws and seat.filters for seat in seats)
        leave = next((seat.track.leave for seat in seats if seat.kind is not None), None)
        self.rounds.leave = leave
        self._kind = None if leave is None else cast("type[Criterion]", kind_of(leave.exit))
        depths = Counter(seat.track.n_loops for seat in seats)
        halting = self.stages.model.cfg.readout != "last"
        leaving = self.stages.early and (halting or leave is not None)
        # Where nobody can leave before the others, a round is a token of everybody.
        self._together = len(depths) == 1 and not leaving
        self._straight = self._together and leave is None and not halting
        most_loops = max(depths)
        self._turns = most_loops if self._together else min(self.settings.stride, most_loops)


def _here(launched: Launched) -> bool:
    return launched.arrived is not None and launched.arrived.query()


def _state(seat: Seat) -> list[int]:
    """A row of `Rounds.state`, in the order of `At`."""
    track, writer = seat.track, seat.writer
    ends = [*writer.ends, *[-1] * (STOPS - len(writer.ends))]
    fixed = [track.n_loops, writer.most, seat.covered, writer.seed & LOW, (writer.seed >> 32) & LOW]
    asked = [writer.choice, writer.asked.sampling.top_k]
    moving = [READY, track.tokens[-1], len(track.tokens) - 1, 0, len(writer.output), 0]
    return [*moving, *fixed, *asked, *ends]


def _real(seat: Seat) -> list[float]:
    """A row of `Rounds.real`, in the order of `Real`."""
    leave, asked = seat.track.leave, seat.writer.asked.sampling
    limit = math.nan if leave is None else cast("Criterion", leave.exit).threshold
    return [limit, asked.temperature, asked.top_p, asked.min_p]
