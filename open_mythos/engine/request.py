"""What goes into an engine, and what comes out of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from open_mythos.generate.logprobs import TokenLogprobs
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
        prompt_logprobs: Report the log-probability of each token of the prompt, and so many
            likeliest alternatives; the prompt is then read as a whole, whatever is cached.
    """

    prompt: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    n_loops: int | None = None
    exit: object = None
    namespace: str = ""
    prompt_logprobs: int | None = None


class Event(NamedTuple):  # a frozen dataclass takes eight times as long to make
    """One more token of a continuation, or its end, or both.

    Attributes:
        request: The number that `Engine.add` gave.
        choice: Which of the `n` continuations.
        token: The token; None where there is none: it ended otherwise.
        text: What can be shown now and could not before; without a tokenizer, nothing.
        loops: Loops that the position that said the token ran.
        logprobs: Of the token, where they were asked for.
        finish: Why it ended; None: it goes on.
        matched: The stop string that ended it, if one did.
        prompt: With the first event of continuation 0, log-probabilities of the prompt's tokens,
            where they were asked for: None of the first, which nothing precedes.
        read: Loops after which what it says was read: fewer than `loops` where a position that has
            left goes on, because later ones look at what it does there (docs/engine.md).
    """

    request: int
    choice: int
    token: int | None
    text: str = ""
    loops: int = 0
    logprobs: TokenLogprobs | None = None
    finish: Finish | None = None
    matched: str | None = None
    prompt: tuple[TokenLogprobs | None, ...] = ()
    read: int = 0


@dataclass(frozen=True)
class Completion:
    """A continuation as a whole.

    Attributes:
        tokens: What was added.
        text: As it can be shown; without a tokenizer, nothing.
        loops: Of each token, the loops of the position that said it.
        finish: Why it ended.
    """

    tokens: tuple[int, ...]
    text: str
    loops: tuple[int, ...]
    finish: Finish

    @classmethod
    def of(cls, events: Sequence[Event]) -> "Completion":
        """From all events of a continuation.

        Raises:
            ValueError: If it has not ended.
        """
        finish = events[-1].finish if events else None
        if finish is None:
            raise ValueError("the continuation has not ended")
        said = [event for event in events if event.token is not None]
        return cls(
            tokens=tuple(event.token for event in said if event.token is not None),
            text="".join(event.text for event in events),
            loops=tuple(event.loops for event in said),
            finish=finish,
        )
