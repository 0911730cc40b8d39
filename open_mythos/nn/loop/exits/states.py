"""Exits that look at the loop's states alone: number of loops, change, rest, change of change."""

import torch
from torch import Tensor

from open_mythos.nn.loop.exits.criterion import Criterion, Kept, Seen, unknown, widened
from open_mythos.ops.rows import TINY, relative_change


def relative(step: Tensor, state: Tensor) -> Tensor:
    """|step| / |state| of (B, S, dim), (B, S) in float32 or wider."""
    size = torch.linalg.vector_norm(widened(state), dim=-1).clamp(min=TINY)
    moved: Tensor = torch.linalg.vector_norm(widened(step), dim=-1) / size
    return moved


class Fixed(Criterion):
    """After `threshold` loops, whatever they did: the same as a pass of so many loops."""

    name = "fixed"
    above = True
    whole = True

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:  # noqa: ARG002
        """Loops done."""
        return unknown(seen.after, float(seen.loop)), ()


class Latent(Criterion):
    """|h_t - h_(t-1)| / |h_t| <= threshold: the state has stopped moving (arXiv 2502.05171)."""

    name = "latent"
    default = 0.03

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:  # noqa: ARG002
        """The relative change."""
        return relative_change(seen.after, seen.before), ()


class Settled(Criterion):
    """|h_t - h_(t-1)| / |h_t| <= threshold twice in a row: the state rests, not just pauses.

    On tasks a position waits until those it depends on are done, and by chance may stand still for
    a loop; how often grows with the loops that it has to wait. Products in S3, trained on 8 factors
    and asked for 32: `latent` lost 3 points there, this none, for one loop more (docs/log.md).
    """

    name = "settled"
    default = 0.03

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:
        """The larger of the last two relative changes; infinite at the first loop."""
        now = relative_change(seen.after, seen.before)
        return torch.maximum(now, kept[0]) if kept else unknown(seen.after), (now,)


class Acceleration(Criterion):
    """|d_t - d_(t-1)| / |h_t| <= threshold twice in a row, with steps d_t = h_t - h_(t-1).

    The second-order exit of arXiv 2509.23314, which lets go where steps have become alike even if
    they have not become small; here relative to the state, so that widths share a threshold. It
    takes three loops at least.
    """

    name = "acceleration"
    default = 0.03

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:
        """The larger of the last two changes of the step."""
        step = widened(seen.after) - widened(seen.before)
        if not kept:
            never = unknown(seen.after)
            return never, (step, never)
        now = relative(step - kept[0], seen.after)
        return torch.maximum(now, kept[1]), (step, now)
