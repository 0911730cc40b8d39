"""What goes into an engine, and what comes out of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from open_mythos.generate.params import SamplingParams


# stop: a token or text that ends it; length: as many tokens as asked for; error: what the model
# said of it is no number.
Finish = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class Request:
    """A prompt to continue.

    Attributes:
        prompt: Token ids, at least one.
        sampling: How tokens are chosen, and when to stop.
        n_loops: Loops per token at most; None is the engine's number.
        exit: Where positions leave the loop early, as in `model.generate`; None: as the config.
        namespace: Requests share what is cached of equal prompts inside of one namespace only.
    """

    prompt: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    n_loops: int | None = None
    exit: object = None
    namespace: str = ""


@dataclass(frozen=True)
class Event:
    """One more token of a request, or its end, or both.

    Attributes:
        request: The number that `add` gave.
        choice: Which of the `n` continuations.
        token: The token; None where there is none: a request ended otherwise.
        loops: Loops after which the position that said it left.
        finish: Why it ended; None: it goes on.
    """

    request: int
    choice: int
    token: int | None
    loops: int = 0
    finish: Finish | None = None
