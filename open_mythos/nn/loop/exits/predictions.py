"""Exits that look at what the model would say: predictions read without the coda."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from open_mythos.errors import InputError
from open_mythos.nn.loop.exits.criterion import Criterion, Kept, Seen, unknown, widened


class KL(Criterion):
    """KL(P_t | P_(t-1)) <= threshold, in nats: the prediction has settled (arXiv 2502.05171)."""

    name = "kl"
    default = 5e-4
    predictions = 2

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:  # noqa: ARG002
        """The divergence; infinite at the first loop, before which nothing was predicted."""
        now, before = seen.log_probs, seen.log_probs_before
        if now is None or before is None:
            return unknown(seen.after), ()
        return (now.exp() * (now - before)).sum(-1), ()


class Entropy(Criterion):
    """H(P_t) <= threshold, in nats: the prediction is sure (BranchyNet, arXiv 1709.01686)."""

    name = "entropy"
    default = 0.5
    predictions = 1

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:  # noqa: ARG002
        """The entropy."""
        assert seen.log_probs is not None
        return -(seen.log_probs.exp() * seen.log_probs).sum(-1), ()


class Stability(Criterion):
    """argmax P_t = argmax P_(t-1) for `threshold` loops in a row: the answer stays."""

    name = "stability"
    default = 3
    above = True
    whole = True
    predictions = 1

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:
        """Loops since the likeliest token last changed; 0 after the first loop."""
        assert seen.log_probs is not None
        best = seen.log_probs.argmax(-1)
        if not kept:
            run = unknown(seen.after, 0.0)
        else:
            run = torch.where(best == kept[0], kept[1] + 1.0, 0.0)
        return run, (best, run)


@dataclass(frozen=True, eq=False)
class Oracle:
    """The first loop whose prediction is right: what no exit can know. For analysis alone.

    Attributes:
        targets: (B, S) int64, of the pass; a position without a target (negative) never leaves.
    """

    targets: Tensor
    name: ClassVar[str] = "oracle"
    predictions: ClassVar[int] = 1
    gated: ClassVar[bool] = False
    packs: ClassVar[bool] = True

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:  # noqa: ARG002
        """1 where the likeliest token is the target, else 0.

        Raises:
            InputError: If the targets are not those of the pass.
        """
        assert seen.log_probs is not None
        best = seen.log_probs.argmax(-1)
        targets = self.targets.to(best.device)
        if seen.places is not None:  # of a pass whose first loop showed all of them
            targets = targets.flatten()[seen.places].unsqueeze(0)
        if best.shape != targets.shape:
            raise InputError(
                f"Oracle has targets {tuple(self.targets.shape)}, the pass has positions "
                f"{tuple(best.shape)}; give it those of the whole pass, without a cache"
            )
        return widened((best == targets).float()), ()

    def done(self, score: Tensor) -> Tensor:
        """Where it is right."""
        return score >= 1.0
