"""Streamers: objects that are shown tokens while they are made, as Hugging Face's `generate` does.

Transformers' TextStreamer and TextIteratorStreamer are such objects; nothing of them is imported.
"""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor


class Streamer(Protocol):
    """What is called while text is generated."""

    def put(self, value: Tensor) -> None:
        """Take the prompts (B, S), then the next token (B,) of every row, on the host."""
        ...

    def end(self) -> None:
        """No more tokens come."""
        ...


def shown(tokens: Iterator[Tensor], ids: Tensor, streamer: Streamer) -> Iterator[Tensor]:
    """The same tokens, each shown to a streamer first, which is told the end of errors too.

    Args:
        tokens: (B,) each.
        ids: (B, S), the prompts.
        streamer: Who is shown them.
    """
    try:
        streamer.put(ids.cpu())
        for token in tokens:
            streamer.put(token.cpu())
            yield token
    finally:  # somebody may be waiting for the end in another thread
        streamer.end()
