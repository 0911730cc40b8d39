"""Readouts: which of the loop's states the coda gets to see, and whether positions halt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.loop.halting import HaltingLedger
from open_mythos.nn.places import Places


class Readout(Protocol):
    """The account of one pass through the loop; every step returns the next account."""

    @property
    def halted(self) -> Tensor | None:
        """(B, S) positions that have halted; None where halting plays no part."""
        ...

    @property
    def loops(self) -> Tensor | None:
        """(B, S) int64, loops in which each position took part; None: all that ran."""
        ...

    @property
    def asks(self) -> bool:
        """Whether `step` wants to be told the halting probability."""
        ...

    @property
    def fusable(self) -> bool:
        """Whether `ops.loop_end` can keep the account."""
        ...

    @property
    def value(self) -> Tensor:
        """(B, S, dim) what the coda reads."""
        ...

    def step(
        self, h: Tensor, p: Tensor | None, *, last: bool | Tensor
    ) -> tuple["Readout", Tensor | None]:
        """Take in a loop's state and halting probability; also the weight (B, S) it was given."""
        ...

    def read(self, h: Tensor) -> Tensor:
        """What the coda would read if the loop that led to `h` (B, S, dim) had been the last."""
        ...

    def split(self, sizes: list[int], states: Sequence[Tensor]) -> Sequence["Readout"]:
        """The accounts of so many rows each, whose states are `states`."""
        ...

    def copy(self, h: Tensor, own: Callable[[Tensor], Tensor]) -> "Readout":
        """The same account of tensors that `own` copies; `h` (B, S, dim) is the state's copy."""
        ...

    def joined(self, others: Sequence["Readout"], h: Tensor) -> "Readout":
        """The account of these rows and those of others like it, whose states are `h`."""
        ...

    def take(self, places: Places, h: Tensor) -> "Readout":
        """The account of some positions, side by side, whose states are `h` (1, N, dim)."""
        ...

    def put(self, places: Places, part: "Readout", h: Tensor) -> "Readout":
        """The account of all positions, states `h`, after a loop that `part` alone took part in."""
        ...


@dataclass(frozen=True)
class LastState:
    """The state after the final loop; halting plays no part."""

    value: Tensor
    halted: None = None
    loops: None = None
    asks: ClassVar[bool] = False
    fusable: ClassVar[bool] = True

    def step(
        self,
        h: Tensor,
        p: Tensor | None,  # noqa: ARG002
        *,
        last: bool | Tensor,  # noqa: ARG002
    ) -> tuple["LastState", None]:
        """Forget the old state, keep the new."""
        return replace(self, value=h), None

    def read(self, h: Tensor) -> Tensor:
        """The state."""
        return h

    def split(self, sizes: list[int], states: Sequence[Tensor]) -> list["LastState"]:  # noqa: ARG002
        """The states themselves, so that state and readout stay one tensor for a compiler."""
        return [LastState(state) for state in states]

    def copy(self, h: Tensor, own: Callable[[Tensor], Tensor]) -> "LastState":  # noqa: ARG002
        """The state's copy itself."""
        return LastState(h)

    def joined(self, others: Sequence[Readout], h: Tensor) -> "LastState":  # noqa: ARG002
        """The states themselves."""
        return LastState(h)

    def take(self, places: Places, h: Tensor) -> "LastState":  # noqa: ARG002
        """The states themselves."""
        return LastState(h)

    def put(self, places: Places, part: Readout, h: Tensor) -> "LastState":  # noqa: ARG002
        """The states themselves."""
        return LastState(h)


@dataclass(frozen=True)
class ActMean:
    """The mean of the states by halting weights; or, unsettled, the sum of open-mythos 0.5.0.

    A ledger that picks gives the state with which the position halted instead.
    """

    ledger: HaltingLedger
    dtype: torch.dtype
    asks: ClassVar[bool] = True

    @property
    def halted(self) -> Tensor:
        """(B, S) positions that have halted."""
        return self.ledger.halted

    @property
    def loops(self) -> Tensor:
        """(B, S) loops in which positions took part."""
        return self.ledger.loops

    @property
    def fusable(self) -> bool:
        """A ledger that adds up."""
        return not self.ledger.picks

    @property
    def value(self) -> Tensor:
        """The weighted states, in the state's own dtype."""
        return self.ledger.mean.to(self.dtype)

    def step(self, h: Tensor, p: Tensor | None, *, last: bool | Tensor) -> tuple["ActMean", Tensor]:
        """Pay for one loop."""
        assert p is not None
        ledger, weight = self.ledger.spend(h, p, last=last)
        return replace(self, ledger=ledger), weight

    def read(self, h: Tensor) -> Tensor:
        """The mean with the remainder paid."""
        return self.ledger.closed(h).to(self.dtype)

    def split(self, sizes: list[int], states: Sequence[Tensor]) -> list["ActMean"]:  # noqa: ARG002
        """The ledgers of so many rows each."""
        return [replace(self, ledger=part) for part in self.ledger.split(sizes)]

    def copy(self, h: Tensor, own: Callable[[Tensor], Tensor]) -> "ActMean":  # noqa: ARG002
        """The ledger, copied."""
        return replace(self, ledger=self.ledger.copy(own))

    def joined(self, others: Sequence[Readout], h: Tensor) -> "ActMean":  # noqa: ARG002
        """One ledger of all."""
        rest = [other.ledger for other in others if isinstance(other, ActMean)]
        return replace(self, ledger=HaltingLedger.join([self.ledger, *rest]))

    def take(self, places: Places, h: Tensor) -> "ActMean":
        """The ledger of some positions."""
        return self.copy(h, places.take)

    def put(self, places: Places, part: Readout, h: Tensor) -> "ActMean":  # noqa: ARG002
        """The ledger of all; those who were not there have halted, and pay no more."""
        assert isinstance(part, ActMean)
        return replace(self, ledger=self.ledger.put(places, part.ledger))


def open_readout(cfg: MythosConfig, h: Tensor) -> LastState | ActMean:
    """The readout that the config names, for a pass that starts from `h` (B, S, dim)."""
    if cfg.readout == "last":
        return LastState(h)
    settled, picks = cfg.readout != "act_sum", cfg.readout == "act_last"
    ledger = HaltingLedger.open(h, cfg.act_threshold, settled=settled, picks=picks)
    return ActMean(ledger, h.dtype)


def join_readouts(parts: Sequence[Readout], h: Tensor) -> Readout:
    """The account of all rows, one part after the other; `h` (B, S, dim) are their states."""
    return parts[0].joined(parts[1:], h)
