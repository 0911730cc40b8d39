"""Departing: the account of rows that are out of the loop for good once they have left it."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from open_mythos.engine.lanes import Lanes, Party
from open_mythos.nn.loop.exits.criterion import Seen


@dataclass(frozen=True)
class Departing:
    """The readout of rows that are read in the state in which they leave, by one exit or by none.

    What `Accounts` says of them, without what is remembered of rows that have left: who goes on
    past its exit, or is paid by halting, needs that; these do not.

    Attributes:
        lanes: Where what the exit remembers is kept.
        index: (N,) int64, the lanes of the rows.
        party: All of them.
        before: (N, 1, width), their states.
        value: As `before`, after the loop.
        left: (N, 1) boolean, rows whose exit lets them go; None: nobody's does.
    """

    lanes: Lanes
    index: Tensor
    party: Party
    before: Tensor
    value: Tensor
    left: Tensor | None = None

    fusable: ClassVar[bool] = False

    @property
    def asks(self) -> bool:
        """If the exit does."""
        return self.party.leave is not None and self.party.leave.exit.gated

    def step(
        self,
        h: Tensor,
        p: Tensor | None,
        *,
        last: bool | Tensor,  # noqa: ARG002
    ) -> tuple["Departing", None]:
        """Take in a loop."""
        leave = self.party.leave
        if leave is None:
            return replace(self, value=h), None
        rule = leave.exit
        before, after = leave.gathered(self.before), leave.gathered(h)
        known, predicted = self.lanes.recall(self.party, self.index)
        log_probs = leave.predict(after) if rule.predictions else None
        seen = Seen(self.party.loop + 1, before, after, p, log_probs, predicted)
        score, kept = rule.score(seen, known)
        latest = log_probs if rule.predictions > 1 else None
        self.lanes.remember(rule, self.index, kept, latest)
        return replace(self, value=h, left=rule.done(score)), None
