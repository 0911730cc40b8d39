"""Writer: one continuation from the outside: its tokens, its text, and whether it has ended."""

from dataclasses import dataclass, field
from typing import cast

from open_mythos.engine.request import Event, Finish, Request
from open_mythos.generate.continuation import Finish as End, Guide, Token
from open_mythos.generate.logprobs import TokenLogprobs
from open_mythos.generate.rows import Row
from open_mythos.generate.text import Writer as TextWriter


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
        guide: What may come next, where the request says so.
        output: Tokens so far.
        prompt: Log-probabilities of the prompt's tokens so far, by position.
    """

    request: int
    choice: int
    asked: Request
    seed: int
    most: int
    ends: tuple[int, ...]
    spelling: TextWriter | None = None
    guide: Guide | None = None
    output: list[int] = field(default_factory=list)
    prompt: dict[int, TokenLogprobs | None] = field(default_factory=dict)

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
            allowed=None if self.guide is None else self.guide.allowed(),
        )

    def write(self, token: int, loops: int, logprobs: TokenLogprobs | None, read: int = 0) -> Event:
        """One more token; `read` is the loop after which it was read, 0 where that is the last."""
        output = self.output
        prompt = () if output else self.told
        output.append(token)
        count, end = len(output), cast("End | None", None)
        text, matched = "", None
        if token in self.ends and count > self.asked.sampling.min_tokens:
            end = "stop"
        elif count >= self.most:
            end = "length"
        elif self.guide is not None:
            self.guide.accept(token)
        if self.spelling is not None:
            piece = self.spelling.piece(Token(token, loops, logprobs, end))
            text, end, matched = piece.text, piece.finish, piece.matched
        # By their places: names took a third of the host's time for a token.
        return Event(
            self.request, self.choice, token, text, loops, logprobs, end, matched, prompt,
            read or loops,
        )  # fmt: skip

    def end(self, finish: Finish) -> Event:
        """No more tokens, for a reason that lies elsewhere; what was held back is shown."""
        prompt = () if self.output else self.told
        text = "" if self.spelling is None else self.spelling.finish()
        return Event(self.request, self.choice, None, text, finish=finish, prompt=prompt)

    @property
    def told(self) -> tuple[TokenLogprobs | None, ...]:
        """What is known of the prompt's tokens, where that was asked."""
        if self.asked.prompt_logprobs is None or not self.prompt:
            return ()
        return tuple(self.prompt.get(at) for at in range(len(self.asked.prompt)))
