"""What an exit is told after each loop, and what it has to answer."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from open_mythos.errors import ConfigError, InputError


Kept = tuple[Tensor, ...]  # what a criterion remembers of earlier loops, (B, S, ...) each


@dataclass(frozen=True)
class Seen:
    """One loop, as an exit sees it: nothing of it hangs on other positions' exits but the states.

    Attributes:
        loop: Loops done, from 1.
        before: (B, S, dim), the state before the loop.
        after: (B, S, dim), the state after it.
        p: (B, S), the gate's probability after it; None where nobody asked for it.
        log_probs: (B, S, vocab), log_softmax(head(norm(after))) in float32 or wider: without the
            coda, whose keys do not exist yet. None where nobody asked for it.
        log_probs_before: The same of the loop before; None at the first loop, too.
        places: (N,) int64, b * S + s of the positions that are there, where others have left and an
            exit that `packs` is shown the rest as (1, N, ...); None: all (B, S, ...).
    """

    loop: int
    before: Tensor
    after: Tensor
    p: Tensor | None = None
    log_probs: Tensor | None = None
    log_probs_before: Tensor | None = None
    places: Tensor | None = None


class Exit(Protocol):
    """Decides, position by position, after which loop a position is done.

    A score is formed after every loop, and the position leaves at the first one that says `done`.
    Scores must depend on their own position alone: cached, chunked and batched passes then agree.
    An exit that has `packs = True` lets positions be shown without those that have left; with any
    other the loop computes all of them (nn/loop/skipping.py).
    """

    @property
    def predictions(self) -> int:
        """Successive predictions that `score` wants to see: 0, 1 or 2."""
        ...

    @property
    def gated(self) -> bool:
        """Whether `score` wants the gate's probability."""
        ...

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:
        """The score (B, S) of this loop, and what to remember; `kept` is () at the first loop."""
        ...

    def done(self, score: Tensor) -> Tensor:
        """(B, S) boolean: the positions whose score lets them go."""
        ...


@dataclass(frozen=True)
class Criterion:
    """An exit with a name and one threshold: done where the score is at most, or at least, that.

    The score does not know the threshold, and the first loop that reaches a looser one cannot come
    later: exits are monotone in their thresholds.

    Attributes:
        threshold: Where a position is done.
        name: In the registry.
        default: Threshold where none is given; None: it must be.
        above: Whether a score of at least the threshold is done; otherwise one of at most it.
        whole: Whether the threshold counts loops.
        share: Whether the threshold is a probability.
        predictions: As in `Exit`.
        gated: As in `Exit`.
        packs: As in `Exit`.
    """

    threshold: float
    name: ClassVar[str]
    default: ClassVar[float | None] = None
    above: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    share: ClassVar[bool] = False
    predictions: ClassVar[int] = 0
    gated: ClassVar[bool] = False
    packs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        value, room = self.threshold, "be a finite number of at least 0"
        real = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = real and math.isfinite(value) and value >= 0.0
        if self.whole:
            room, fits = "be a whole number of at least 1", fits and value >= 1 and value % 1 == 0
        elif self.share:
            room, fits = "lie in (0, 1]", fits and 0.0 < value <= 1.0
        if not fits:
            raise ConfigError(f"the threshold of exit {self.name!r} is {value!r}; it must {room}")

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:
        """As in `Exit`."""
        raise NotImplementedError

    def done(self, score: Tensor) -> Tensor:
        """As in `Exit`."""
        return score >= self.threshold if self.above else score <= self.threshold

    def __str__(self) -> str:
        return f"{self.name}:{self.threshold:g}"


@dataclass(frozen=True)
class Own:
    """A user's object with one method, `done(seen) -> (B, S)` boolean, as an exit.

    Attributes:
        criterion: The object; where it says `predictions`, `gated` or `packs`, it is asked so.
    """

    criterion: Any

    @property
    def predictions(self) -> int:
        """What the object says; 0 where it says nothing."""
        return int(getattr(self.criterion, "predictions", 0))

    @property
    def gated(self) -> bool:
        """What the object says; False where it says nothing."""
        return bool(getattr(self.criterion, "gated", False))

    @property
    def packs(self) -> bool:
        """What the object says; False where it says nothing: it may count on the batch's shape."""
        return bool(getattr(self.criterion, "packs", False))

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:  # noqa: ARG002
        """Its answer.

        Raises:
            InputError: If that is no boolean per position.
        """
        answer = self.criterion.done(seen)
        shape = seen.after.shape[:-1]
        if not isinstance(answer, Tensor) or answer.dtype != torch.bool or answer.shape != shape:
            found = (
                f"{answer.dtype} {tuple(answer.shape)}"
                if isinstance(answer, Tensor)
                else type(answer).__name__
            )
            raise InputError(
                f"{type(self.criterion).__name__}.done returned {found}; an exit answers with a "
                f"boolean tensor {tuple(shape)}, one per position"
            )
        return answer, ()

    def done(self, score: Tensor) -> Tensor:
        """The answer itself."""
        return score


def widened(x: Tensor) -> Tensor:
    """The same in float32, or float64 if it is that."""
    return x if x.dtype == torch.float64 else x.float()


def unknown(like: Tensor, value: float = math.inf) -> Tensor:
    """(B, S), the score of positions (B, S, ...) of which too few loops are known."""
    return torch.full_like(widened(like[..., 0]), value)
