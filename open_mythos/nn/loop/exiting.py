"""Exiting: a readout that positions leave early, each at the loop that its exit names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.cut import cut
from open_mythos.nn.loop.exits.criterion import Exit, Kept, Seen
from open_mythos.nn.loop.readout import Readout, open_readout
from open_mythos.nn.places import Places


@dataclass(frozen=True)
class Leave:
    """How positions leave the loop.

    Attributes:
        exit: Decides when.
        predict: States (B, S, dim) to log-probabilities (B, S, vocab), without the coda.
        gathered: A state as the loop keeps it to one of the model's width.
    """

    exit: Exit
    predict: Callable[[Tensor], Tensor]
    gathered: Callable[[Tensor], Tensor] = lambda state: state


@dataclass(frozen=True)
class Exiting:
    """What another readout says at the loop at which each position leaves; at the end elsewhere.

    A position whose own readout halts has left with it.

    Attributes:
        inner: The readout of the config.
        leave: How positions leave.
        loop: Loops done.
        state: (B, S, dim), the state after the last of them, as the loop keeps it.
        halted: (B, S) boolean, positions that have left.
        loops: (B, S) int64, loops in which each position took part.
        out: (B, S, dim), what was read where a position left; anything elsewhere.
        kept: What the exit remembers.
        log_probs: (B, S, vocab), the last prediction, where the exit compares two; or (1, N, vocab)
            of those in `shown` alone: a table of all is not copied in every loop.
        shown: (N,) int64, b * S + s of the positions that `log_probs` is of; None: all.
        here: (N,) int64, the same of the positions that this account is of; None: all.
    """

    inner: Readout
    leave: Leave
    loop: int
    state: Tensor
    halted: Tensor
    loops: Tensor
    out: Tensor
    kept: Kept = ()
    log_probs: Tensor | None = None
    shown: Tensor | None = None
    here: Tensor | None = None

    @property
    def asks(self) -> bool:
        """If the exit or the inner readout does."""
        return self.inner.asks or self.leave.exit.gated

    @property
    def fusable(self) -> bool:
        """No: the kernel knows nothing of exits."""
        return False

    @property
    def value(self) -> Tensor:
        """What was read at the exit, or at the end."""
        return torch.where(self.halted.unsqueeze(-1), self.out, self.inner.value)

    def step(
        self, h: Tensor, p: Tensor | None, *, last: bool | Tensor
    ) -> tuple["Exiting", Tensor | None]:
        """Take in a loop, and let go who is done."""
        inner, weight = self.inner.step(h, p, last=last)
        rule = self.leave.exit
        before, after = self.leave.gathered(self.state), self.leave.gathered(h)
        log_probs = self.leave.predict(after) if rule.predictions else None
        known = self.log_probs if self.here is not None else self._predicted()
        seen = Seen(self.loop + 1, before, after, p, log_probs, known, self.here)
        score, kept = rule.score(seen, self.kept)
        done = rule.done(score)
        if inner.halted is not None:
            done = done | inner.halted
        leaving = ~self.halted & done
        return replace(
            self,
            inner=inner,
            loop=self.loop + 1,
            state=h,
            halted=self.halted | done,
            loops=self.loops + ~self.halted,
            out=torch.where(leaving.unsqueeze(-1), _told(inner, h, last), self.out),
            kept=kept,
            log_probs=log_probs if rule.predictions > 1 else None,
            shown=self.here,
        ), weight

    def _predicted(self) -> Tensor | None:
        """The last prediction as a table of all; zeros where none was made."""
        if self.log_probs is None or self.shown is None:
            return self.log_probs
        known = self.log_probs.squeeze(0)
        table = known.new_zeros(self.halted.numel(), known.shape[-1]).index_copy(
            0, self.shown, known
        )
        return table.view(*self.halted.shape, -1)

    def read(self, h: Tensor) -> Tensor:
        """What was read at the exit, or would be read now."""
        return torch.where(self.halted.unsqueeze(-1), self.out, self.inner.read(h))

    def split(self, sizes: list[int], states: Sequence[Tensor]) -> list["Exiting"]:
        """The accounts of so many rows each."""
        known = self._predicted()
        parts = zip(
            self.inner.split(sizes, states),
            states,
            *(cut(table, sizes) for table in (self.halted, self.loops, self.out)),
            zip(*(cut(table, sizes) for table in self.kept), strict=True)
            if self.kept
            else [()] * len(sizes),
            [None] * len(sizes) if known is None else cut(known, sizes),
            strict=True,
        )
        return [
            replace(
                self,
                inner=inner,
                state=state,
                halted=halted,
                loops=loops,
                out=out,
                kept=kept,
                log_probs=log_probs,
                shown=None,
            )
            for inner, state, halted, loops, out, kept, log_probs in parts
        ]

    def copy(self, h: Tensor, own: Callable[[Tensor], Tensor]) -> "Exiting":
        """The account, copied."""
        return replace(
            self,
            inner=self.inner.copy(h, own),
            state=h,
            halted=own(self.halted),
            loops=own(self.loops),
            out=own(self.out),
            kept=tuple(own(table) for table in self.kept),
            log_probs=None if self.log_probs is None else own(self.log_probs),
        )

    def joined(self, others: Sequence[Readout], h: Tensor) -> "Exiting":
        """One account of all."""
        parts = [self, *(other for other in others if isinstance(other, Exiting))]
        known = [table for part in parts if (table := part._predicted()) is not None]
        return replace(
            self,
            inner=self.inner.joined([part.inner for part in parts[1:]], h),
            state=h,
            halted=torch.cat([part.halted for part in parts]),
            loops=torch.cat([part.loops for part in parts]),
            out=torch.cat([part.out for part in parts]),
            kept=tuple(torch.cat(t) for t in zip(*(p.kept for p in parts), strict=True)),
            log_probs=torch.cat(known) if known else None,
            shown=None,
        )

    def take(self, places: Places, h: Tensor) -> "Exiting":
        """The account of some positions."""
        known = self.log_probs
        if known is not None and self.shown is not None:
            known = known.index_select(1, places.among(self.shown))
        elif known is not None:
            known = places.take(known)
        return replace(
            self,
            inner=self.inner.take(places, h),
            state=h,
            halted=places.take(self.halted),
            loops=places.take(self.loops),
            out=places.take(self.out),
            kept=tuple(places.take(table) for table in self.kept),
            log_probs=known,
            shown=places.index,
            here=places.index,
        )

    def put(self, places: Places, part: Readout, h: Tensor) -> "Exiting":
        """The account of all, with what some remember: the others have left."""
        assert isinstance(part, Exiting)
        before = self.kept or [new.new_zeros(*h.shape[:2], *new.shape[2:]) for new in part.kept]
        kept = zip(before, part.kept, strict=True)
        return replace(
            self,
            inner=self.inner.put(places, part.inner, h),
            loop=part.loop,
            state=h,
            halted=places.put(self.halted, part.halted),
            loops=places.put(self.loops, part.loops),
            out=places.put(self.out, part.out),
            kept=tuple(places.put(table, new) for table, new in kept),
            log_probs=part.log_probs,
            shown=places.index,
            here=None,
        )


def _told(inner: Readout, h: Tensor, last: bool | Tensor) -> Tensor:
    """What the readout says of a position that leaves now: at the last loop it is settled."""
    if isinstance(last, Tensor):
        return torch.where(last.unsqueeze(-1), inner.value, inner.read(h))
    return inner.value if last else inner.read(h)


def open_account(cfg: MythosConfig, h: Tensor, leave: Leave | None = None) -> Readout:
    """The readout that the config names, for a pass that starts from `h`, with an exit if any."""
    inner = open_readout(cfg, h)
    if leave is None:
        return inner
    nobody = torch.zeros(h.shape[:-1], dtype=torch.bool, device=h.device)
    return Exiting(
        inner=inner,
        leave=leave,
        loop=0,
        state=h,
        halted=nobody,
        loops=nobody.long(),
        out=torch.zeros_like(h),
    )
