"""Readouts: which of the loop's states the coda gets to see, and whether positions halt."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.loop.halting import HaltingLedger


class Readout(Protocol):
    """The account of one pass through the loop; every step returns the next account."""

    @property
    def halted(self) -> Tensor | None:
        """(B, S) positions that have halted; None where halting plays no part."""
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


@dataclass(frozen=True)
class LastState:
    """The state after the final loop; halting plays no part."""

    value: Tensor
    halted: None = None

    def step(
        self,
        h: Tensor,
        p: Tensor | None,  # noqa: ARG002
        *,
        last: bool | Tensor,  # noqa: ARG002
    ) -> tuple["LastState", None]:
        """Forget the old state, keep the new."""
        return replace(self, value=h), None


@dataclass(frozen=True)
class ActMean:
    """The mean of the states by halting weights; or, unsettled, the sum of open-mythos 0.5.0."""

    ledger: HaltingLedger
    dtype: torch.dtype

    @property
    def halted(self) -> Tensor:
        """(B, S) positions that have halted."""
        return self.ledger.halted

    @property
    def value(self) -> Tensor:
        """The weighted states, in the state's own dtype."""
        return self.ledger.mean.to(self.dtype)

    def step(self, h: Tensor, p: Tensor | None, *, last: bool | Tensor) -> tuple["ActMean", Tensor]:
        """Pay for one loop."""
        assert p is not None
        ledger, weight = self.ledger.spend(h, p, last=last)
        return replace(self, ledger=ledger), weight


def open_readout(cfg: MythosConfig, h: Tensor) -> LastState | ActMean:
    """The readout that the config names, for a pass that starts from `h` (B, S, dim)."""
    if cfg.readout == "last":
        return LastState(h)
    settled = cfg.readout == "act"
    return ActMean(HaltingLedger.open(h, cfg.act_threshold, settled=settled), h.dtype)
