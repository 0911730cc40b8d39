"""Exiting: a readout that positions leave early, each at the loop that its exit names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.cut import cut
from open_mythos.nn.loop.exits.criterion import Exit, Kept, Seen
from open_mythos.nn.loop.readout import Readout, open_readout


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
        log_probs: (B, S, vocab), the last prediction, where the exit compares two.
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
        seen = Seen(self.loop + 1, before, after, p, log_probs, self.log_probs)
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
        ), weight

    def read(self, h: Tensor) -> Tensor:
        """What was read at the exit, or would be read now."""
        return torch.where(self.halted.unsqueeze(-1), self.out, self.inner.read(h))

    def split(self, sizes: list[int], states: Sequence[Tensor]) -> list["Exiting"]:
        """The accounts of so many rows each."""
        parts = zip(
            self.inner.split(sizes, states),
            states,
            *(cut(table, sizes) for table in (self.halted, self.loops, self.out)),
            zip(*(cut(table, sizes) for table in self.kept), strict=True)
            if self.kept
            else [()] * len(sizes),
            [None] * len(sizes) if self.log_probs is None else cut(self.log_probs, sizes),
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
        known = [part.log_probs for part in parts if part.log_probs is not None]
        return replace(
            self,
            inner=self.inner.joined([part.inner for part in parts[1:]], h),
            state=h,
            halted=torch.cat([part.halted for part in parts]),
            loops=torch.cat([part.loops for part in parts]),
            out=torch.cat([part.out for part in parts]),
            kept=tuple(torch.cat(t) for t in zip(*(p.kept for p in parts), strict=True)),
            log_probs=torch.cat(known) if known else None,
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
