"""Loops per row: each row runs as often as it says, and a finished row is computed no more."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from open_mythos.errors import InputError
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.cut import cut, span
from open_mythos.nn.loop.constants import Constants
from open_mythos.nn.loop.exiting import Leave, open_account
from open_mythos.nn.loop.skipping import Skipping, open_skipping
from open_mythos.nn.loop.standing import Standing, hung, join
from open_mythos.nn.loop.trace import LoopTrace, Noted, Part, rows_trace
from open_mythos.nn.upload import upload


if TYPE_CHECKING:
    from open_mythos.nn.loop.recurrent import RecurrentBlock


@dataclass(frozen=True)
class RowLoops:
    """How often each row is looped: numbers on the host, since the shapes follow from them.

    Attributes:
        loops: One number of at least 1 per row.
        at_least: Loops that are run whatever the rows say, the last ones on a single row for
            nothing: other ranks wait in each loop where experts or weights are spread over them.
    """

    loops: tuple[int, ...]
    at_least: int = 0

    @property
    def order(self) -> list[int]:
        """Rows by depth, the deepest first: those still running are then the first ones."""
        return sorted(range(len(self.loops)), key=lambda row: -self.loops[row])


def run_rows(  # noqa: PLR0913 -- everything a pass depends on
    loop: "RecurrentBlock",
    h: Tensor,
    e: Tensor,
    context: AttentionContext,
    rows: RowLoops,
    valid: Tensor | None = None,
    backprop_loops: int | None = None,
    read_loops: tuple[int, ...] = (),
    *,
    observed: bool = True,
    leave: Leave | None = None,
) -> tuple[Tensor, LoopTrace | None]:
    """`RecurrentBlock.run` with a number of loops for each row; every one of them is run.

    The same as each row alone at its own depth, forward and backward, for the cost of the loops
    that the rows ask for: loop t runs on the rows deeper than t. Rows that come with the deepest
    first are moved nowhere.

    Args:
        loop: The loop.
        h: (B, S, dim), the state at the start.
        e: (B, S, dim), the input that every loop sees.
        context: Positions and visibility of the call.
        rows: Loops of each row.
        valid: (B, S) boolean, False at padding; None means all real.
        backprop_loops: Only the last so many loops of each row are differentiated; a loop that is
            so for some rows only is run in two parts. None is all of them.
        read_loops: Loops after which the state is read out beside the last; a row that ended
            before gives its end.
        observed: Whether a trace is wanted; None is returned for it otherwise.
        leave: How positions leave before their row ends; None: as the readout says.

    Raises:
        InputError: If other ranks wait in each loop and it is not told how many there are.
    """
    if loop.lockstep and rows.at_least < max(rows.loops):
        raise InputError(
            f"min_loops is {rows.at_least or None} beside rows of up to {max(rows.loops)} loops, "
            "but ranks that share experts meet in each loop; give all of them the loops of the "
            "deepest row of all"
        )
    order, back = rows.order, None
    ends = [rows.loops[row] for row in order]
    if order != list(range(len(order))):
        index = upload(order, h.device)
        back = upload(sorted(range(len(order)), key=order.__getitem__), h.device)
        h, e, context = h[index], e[index], context.part(index)
        valid = None if valid is None else valid[index]
    h = loop.injection.spread(h)
    start = Standing(h, e, open_account(loop.cfg, h, leave))
    skipping = open_skipping(loop, h, context, leave, observed=observed)
    walk = Walk(loop, start, ends, rows.at_least, context, valid, read_loops, observed, skipping)
    left = walk.all_rows(backprop_loops)
    ended = [left[depth] for depth in sorted(left, reverse=True)]

    def together(parts: Sequence[Tensor]) -> Tensor:
        """The rows in the caller's order, without the states that nobody reads."""
        every = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        every = loop.injection.gathered(every)
        return every[: len(ends)] if back is None else every[back]

    value = together([part.readout.value for part in ended] + walk.discarded)
    work = skipping.work(ends, h.shape[1])
    if not observed:
        return value, None
    reads = []
    for depth in read_loops:
        short = [left[d].readout.value for d in sorted(left, reverse=True) if d <= depth]
        reads.append(together([*walk.reads.get(depth, []), *short]))
    trace = rows_trace(walk.notes[: ends[0]], [p.readout for p in ended], walk.depths, valid, h)
    trace = trace if back is None else trace.moved(back)
    return value, replace(trace, reads=tuple(reads), row_loops=rows.loops, work=work)


@dataclass
class Walk:
    """The rows of one pass, the deepest first, on their way through the loop.

    Attributes:
        loop: The loop.
        start: Where the rows stand at the start.
        ends: Loops of the rows, descending.
        at_least: Loops to take part in, whatever the rows say.
        context: Positions and visibility of the rows.
        valid: (B, S) boolean, False at padding; None means all real.
        read_loops: Loops after which the state is read out beside the last.
        observed: Whether the loops' states are measured.
        skipping: What may be left out.
        constants: Of all loops.
        depths: (B,) int64, the same as `ends`, on the device.
        learns: Whether gradients are wanted. What is the last loop is then told by tensors, which
            fix no compiled graph, and otherwise by a bool where it may be, which rules out no
            kernel: as in `RecurrentBlock.constants`.
        notes: By loop, what was seen of it.
        reads: By loop, what was read out of the rows that went on, one part after the other.
        discarded: States that nobody reads, but whose way back other ranks wait for.
    """

    loop: "RecurrentBlock"
    start: Standing
    ends: Sequence[int]
    at_least: int
    context: AttentionContext
    valid: Tensor | None
    read_loops: tuple[int, ...]
    observed: bool
    skipping: Skipping
    constants: Constants = field(init=False)
    depths: Tensor = field(init=False)
    learns: bool = field(init=False)
    notes: list[list[Part]] = field(init=False)
    reads: dict[int, list[Tensor]] = field(init=False, default_factory=dict)
    discarded: list[Tensor] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        n_loops = max(self.ends[0], self.at_least)
        self.constants = self.loop.constants(n_loops, self.start.h)
        self.depths = upload(self.ends, self.start.h.device)
        self.learns = torch.is_grad_enabled()
        self.notes = [[] for _ in range(n_loops)]
        self._spare = (0, self.start)  # the number of a row, and rows from there on

    def all_rows(self, backprop_loops: int | None) -> dict[int, Standing]:
        """Where the rows stand at their ends, by depth."""
        if backprop_loops is None:
            return self.between({0: self.start}, self.ends, self.at_least)
        silent = [end - backprop_loops for end in self.ends if end > backprop_loops]
        front, entering = self.start, {}
        if len(silent) < len(self.ends):
            front, back = front.split(len(self.ends) - len(silent))
            entering[0] = hung(back, back.e)
        with torch.no_grad():
            first = {0: front.copy(torch.Tensor.detach)} if silent else {}
            half = self.between(first, silent, self.at_least - backprop_loops)
        # Their states come in as constants; the input that every loop sees does not.
        inputs = cut(front.e, [half[loops].rows for loops in sorted(half, reverse=True)])
        for loops, e in zip(sorted(half, reverse=True), inputs, strict=True):
            entering[loops] = hung(half[loops], e)
        return self.between(entering, self.ends, self.at_least)

    def between(
        self, entering: dict[int, Standing], ends: Sequence[int], at_least: int
    ) -> dict[int, Standing]:
        """Run rows from where they come in to where they go out.

        Args:
            entering: Rows by the loop in which they come in, the deeper ones later.
            ends: Loop after which each of these rows goes out, descending.
            at_least: Loops to take part in even where no row is.

        Returns:
            Rows by the loop after which they went out, ascending.
        """
        leaving = Counter(ends)
        left: dict[int, Standing] = {}
        going: Standing | None = None
        top = len(ends)  # the number of the first row that is going
        for t in range(max([at_least, *ends])):
            if t in entering:
                top -= entering[t].rows
                going = entering[t] if going is None else join([entering[t], going])
            if going is not None:
                going = self._turn(going, t, top)
                count = leaving[t + 1]
                if count == going.rows:
                    left[t + 1], going = going, None
                elif count:
                    going, left[t + 1] = going.split(count)
            elif t < at_least:
                self._idle(t)
        return left

    def _turn(self, now: Standing, t: int, top: int) -> Standing:
        rows = slice(top, top + now.rows)
        now, noted = self._advance(now, t, rows)
        self._spare = (top, now)
        self.notes[t].append(Part(noted, rows))
        if t + 1 in self.read_loops:
            going = sum(end > t + 1 for end in self.ends[rows])
            if going:
                self.reads.setdefault(t + 1, []).append(now.readout.read(now.h)[:going])
        return now

    def _idle(self, t: int) -> None:
        """Take part in a loop that no row here needs: one row goes on for nothing."""
        top, spare = self._spare
        if spare.rows > 1:
            spare, _ = spare.split(spare.rows - 1)
        spare, _ = self._advance(spare, t, slice(top, top + 1))
        self._spare = (top, spare)
        if torch.is_grad_enabled():
            self.discarded.append(spare.h)

    def _advance(self, now: Standing, t: int, rows: slice) -> tuple[Standing, Noted]:
        valid = None if self.valid is None else span(self.valid, rows)
        places = self.skipping.after(now, valid) if self.skipping.leaves else None
        return self.skipping.advance(
            self.loop,
            now,
            places,
            replace(self.constants.ticks[t], last=self._last(t, rows)),
            self.context.part(rows),
            None,
            valid,
            self.constants.coefficients,
            observed=self.observed,
        )

    def _last(self, t: int, rows: slice) -> bool | Tensor:
        """Of which rows loop t is the last: (N, 1), or a bool where it may be one for all."""
        ending = [end == t + 1 for end in self.ends[rows]]
        if not self.learns and len(set(ending)) == 1:
            return ending[0]
        return (self.depths[rows] == t + 1).unsqueeze(-1)
