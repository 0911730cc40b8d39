"""Writer: one continuation from the outside: its tokens, its text, and whether it has ended."""

from dataclasses import dataclass, field

from open_mythos.engine.request import Event, Finish, Request
from open_mythos.generate.detokenise import Detokeniser
from open_mythos.generate.logprobs import TokenLogprobs
from open_mythos.generate.rows import Row
from open_mythos.generate.stops import StopText


@dataclass
class Writer:
    """What is written of a request's continuation `choice`.

    Attributes:
        request: The request's number.
        choice: Which of its continuations.
        asked: The request.
        seed: Of its draws.
        most: Tokens to add at most.
        ends: Tokens that end it.
        spelling: Tokens to text; None without a tokenizer.
        output: Tokens so far.
        prompt: Log-probabilities of the prompt's tokens so far, by position.
    """

    request: int
    choice: int
    asked: Request
    seed: int
    most: int
    ends: tuple[int, ...]
    spelling: Detokeniser | None = None
    output: list[int] = field(default_factory=list)
    prompt: dict[int, TokenLogprobs | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stops = StopText(self.asked.sampling.stop)

    @property
    def row(self) -> Row:
        """What it asks at its next token."""
        return Row(
            params=self.asked.sampling,
            seed=self.seed,
            index=self.choice,
            prompt=self.asked.prompt,
            output=self.output,
            ends=self.ends,
        )

    def write(self, token: int, loops: int, logprobs: TokenLogprobs | None) -> Event:
        """One more token."""
        first = not self.output
        self.output.append(token)
        text, finish = self._read(token)
        prompt = self.told if first else ()
        return Event(self.request, self.choice, token, text, loops, logprobs, finish, prompt)

    def end(self, finish: Finish) -> Event:
        """No more tokens, for a reason that lies elsewhere."""
        prompt = () if self.output else self.told
        return Event(self.request, self.choice, None, self._rest(), finish=finish, prompt=prompt)

    @property
    def told(self) -> tuple[TokenLogprobs | None, ...]:
        """What is known of the prompt's tokens, where that was asked."""
        if self.asked.prompt_logprobs is None or not self.prompt:
            return ()
        return tuple(self.prompt.get(at) for at in range(len(self.asked.prompt)))

    def _read(self, token: int) -> tuple[str, Finish | None]:
        """The text that a token makes certain, and whether it is the last."""
        early = len(self.output) < self.asked.sampling.min_tokens
        if token in self.ends and not early:
            return self._rest(), "stop"
        text = "" if self.spelling is None else self.spelling.push(token)
        if not early:
            text = self._stops.push(text)
        if self._stops.matched is not None:
            return text, "stop"
        if len(self.output) >= self.most:
            return text + self._rest(), "length"
        return text, None

    def _rest(self) -> str:
        """What was held back, as no more text comes."""
        if self.spelling is None or self._stops.matched is not None:
            return ""
        text = self._stops.push(self.spelling.finish())
        return text if self._stops.matched is not None else text + self._stops.finish()
