"""Detokeniser: tokens to text one at a time, each character once it is whole."""

from collections.abc import Iterable, Sequence
from typing import Protocol


BROKEN = "\ufffd"  # what decoders write for half a character, and for bytes that are none
# Tokens of context that a decoder is shown: some strip a space before the first token. A window
# must begin with a whole character, and the longest has four bytes, a token each at worst.
LEAST_CONTEXT = 4
MOST_CONTEXT = 8


class Spelling(Protocol):
    """What writing text needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Every id that stands for something is below it."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, special tokens skipped."""
        ...


class Detokeniser:
    """What is pushed comes out as the text that decoding all of it at once gives, piece by piece.

    The last character is held back while it may be half of one; `finish` gives it as it is.
    """

    def __init__(self, tokenizer: Spelling, prompt: Sequence[int] = ()) -> None:
        """Start behind a prompt, whose text does not come out again."""
        self._tokenizer = tokenizer
        self._window = list(prompt[-MOST_CONTEXT:])
        self._shown = len(self._decode(self._window))

    def push(self, token: int) -> str:
        """The text that is certain now and was not before; a token may add none."""
        self._window.append(token)
        text = self._decode(self._window)
        whole = not text.endswith(BROKEN)
        new = self._upto(text, len(text) if whole else len(text) - 1)
        if whole and len(self._window) > 2 * MOST_CONTEXT:
            self._shorten(text)
        return new

    def finish(self) -> str:
        """What was held back."""
        text = self._decode(self._window)
        return self._upto(text, len(text))

    def _upto(self, text: str, end: int) -> str:
        new = text[self._shown : end]
        self._shown = max(self._shown, end)
        return new

    def _shorten(self, text: str) -> None:
        """Drop the tokens that later ones cannot change, so that a token costs the same always."""
        for count in range(LEAST_CONTEXT, MOST_CONTEXT + 1):
            tail = self._decode(self._window[-count:])
            if text.endswith(tail):  # it does not begin in the middle of a character
                self._window = self._window[-count:]
                self._shown = len(tail)
                return

    def _decode(self, ids: Sequence[int]) -> str:
        """Ids that only pad the model's vocabulary stand for nothing."""
        known = self._tokenizer.vocab_size
        return self._tokenizer.decode([i for i in ids if i < known])
