"""Text from text: a prompt goes in, pieces of its continuation come out while it is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from open_mythos.errors import InputError
from open_mythos.generate.constrain import build_guide
from open_mythos.generate.continuation import Ask, Continuations, Finish, Token
from open_mythos.generate.detokenise import Detokeniser, Spelling
from open_mythos.generate.logprobs import TokenLogprobs
from open_mythos.generate.noise import fresh_seed
from open_mythos.generate.params import SamplingParams
from open_mythos.generate.partial import LoopedModel
from open_mythos.generate.speculate import Draft, Speculation
from open_mythos.generate.stops import StopText
from open_mythos.nn.mode import evaluating


class TextTokenizer(Spelling, Protocol):
    """What generating text needs of a tokenizer."""

    @property
    def eos_id(self) -> int | None:
        """Id that ends a text, or None."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of the text, with nothing added."""
        ...


@dataclass(frozen=True)
class Piece:
    """What one token adds to the text.

    Attributes:
        text: Characters that are certain with it: none while half of one, or what may be the
            beginning of a stop string, is held back.
        token: Its id; the last one may be an end that is not shown.
        loops: In which the position that says it took part.
        logprobs: If asked for.
        finish: Why it is the last: "stop" or "length"; None if it is not.
        matched: The stop string that ended the text, if one did.
        index: Which of the `n` continuations it belongs to.
    """

    text: str
    token: int
    loops: int
    logprobs: TokenLogprobs | None = None
    finish: Finish | None = None
    matched: str | None = None
    index: int = 0


class Writer:
    """One continuation's tokens to text, whole characters only, up to a stop string."""

    def __init__(
        self, tokenizer: Spelling, params: SamplingParams, prompt: Sequence[int] = ()
    ) -> None:
        """Start behind a prompt."""
        self._detokeniser = Detokeniser(tokenizer, prompt)
        self._stops = StopText(params.stop)
        self._early = params.min_tokens

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text; nothing comes after it."""
        return self._stops.matched

    def push(self, token: int) -> str:
        """What a token adds; stop strings are looked for behind the first `min_tokens` tokens."""
        text = self._detokeniser.push(token)
        if self._early > 0:
            self._early -= 1
            return text
        return self._stops.push(text)

    def finish(self) -> str:
        """What was held back, as no more tokens come."""
        rest = self._detokeniser.finish()
        return self._stops.push(rest) + self._stops.finish()

    def piece(self, token: Token, index: int = 0) -> Piece:
        """What a token adds, and whether the text has ended with it, by either kind of stop."""
        text = "" if token.finish == "stop" else self.push(token.token)
        finish: Finish | None = "stop" if self.matched is not None else token.finish
        if finish is not None and self.matched is None:
            text += self.finish()
            finish = "stop" if self.matched is not None else finish
        return Piece(text, token.token, token.loops, token.logprobs, finish, self.matched, index)


def stream_text(  # noqa: PLR0913 -- what a text may be asked for
    model: LoopedModel,
    tokenizer: TextTokenizer,
    prompt: str | Sequence[int],
    params: SamplingParams | None = None,
    *,
    n_loops: int | None = None,
    exit: object = None,
    generator: torch.Generator | None = None,
    draft: Draft | None = None,
) -> Iterator[Piece]:
    """Yield what each token adds to the text, while it is written.

    The texts of a continuation's pieces, put together, are the text. Several continuations
    (`params.n`) take turns, each with its `index`; with a draft one follows the other.

    Args:
        model: The network; it writes in evaluation mode and is left in its own.
        tokenizer: Its tokenizer.
        prompt: Text, or its token ids; an empty one starts a text.
        params: How to go on; None is `SamplingParams()`.
        n_loops: Loops per token; None is the config's max_loop_iters.
        exit: Where positions leave the loop early: see `OpenMythos.forward`.
        generator: Makes the seed of a request that has none; None is torch's own.
        draft: Draft with few loops and verify with all; the text is the same (`speculate.py`).

    Raises:
        InputError: If the model has no room for it, or a request cannot be answered.
        MissingExtraError: If a constraint needs a package that is not installed.
    """
    params = SamplingParams() if params is None else params
    start = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
    start = start or [_beginning(tokenizer)]
    seed = fresh_seed(generator) if params.seed is None else params.seed
    asks = [
        Ask(start, params, seed, i, tokenizer.eos_id, build_guide(params.constraint, tokenizer))
        for i in range(params.n)
    ]
    writers = [Writer(tokenizer, params, start) for _ in asks]
    if draft is not None:
        if exit is not None:
            raise InputError("a draft is verified with all loops; leave draft or exit out")
        drafted = [Speculation(model, ask, draft, n_loops=n_loops) for ask in asks]
        return _drafted_pieces(model, drafted, writers)
    batch = Continuations(model, asks, n_loops=n_loops, exit=exit)
    return _pieces(model, batch, writers)


def _pieces(model: LoopedModel, batch: Continuations, writers: Sequence[Writer]) -> Iterator[Piece]:
    """Checks have been made: an iterator that nobody reads must not hide an error."""
    assert isinstance(model, nn.Module)
    try:
        while batch.going:
            with evaluating(model):  # between pieces the caller may do with the model as he likes
                tokens = batch.step()
            for row, token in enumerate(tokens):
                if token is not None:
                    piece = writers[row].piece(token, row)
                    if piece.finish is not None:
                        batch.end(row)
                    yield piece
    finally:
        batch.close()


def _drafted_pieces(
    model: LoopedModel, texts: Sequence[Speculation], writers: Sequence[Writer]
) -> Iterator[Piece]:
    assert isinstance(model, nn.Module)
    for index, (text, writer) in enumerate(zip(texts, writers, strict=True)):
        while text.going:
            with evaluating(model):
                tokens = text.step()
            for token in tokens:
                piece = writer.piece(token, index)
                yield piece
                if piece.finish is not None:
                    text.end()
                    break


def _beginning(tokenizer: TextTokenizer) -> int:
    if tokenizer.eos_id is None:
        raise InputError("the prompt is empty, and the tokenizer has no end of text to start from")
    return tokenizer.eos_id
