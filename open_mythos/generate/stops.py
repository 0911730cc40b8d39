"""StopText: text that ends before a stop string, whatever pieces it comes in."""

from collections.abc import Sequence


class StopText:
    """Text goes in and comes out, up to the first stop string to be complete.

    A piece may end in the beginning of a stop string; that part waits until it is known not to be
    one. The result is that of one character after the other: where several are complete with the
    same character, the one that began first counts.

    Attributes:
        matched: The stop string that ended the text; None while there is none.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Look for these; one that holds another before its end never comes to its end."""
        self._stops = tuple(s for s in stops if not any(other in s[:-1] for other in stops))
        self._held = ""
        self.matched: str | None = None

    def push(self, piece: str) -> str:
        """The text that is certain now and was not before; none once a stop string was met."""
        if self.matched is not None:
            return ""
        text = self._held + piece
        found = [(at + len(s), at, s) for s in self._stops if (at := text.find(s)) >= 0]
        if found:
            _, start, self.matched = min(found)
            self._held = ""
            return text[:start]
        keep = self._beginning(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What waited, as no more text comes."""
        rest, self._held = self._held, ""
        return rest

    def _beginning(self, text: str) -> int:
        """Characters at the end of `text` that a stop string may begin with."""
        most = max((len(stop) for stop in self._stops), default=1) - 1
        return next(
            (k for k in range(min(most, len(text)), 0, -1) if self._begins(text[-k:])),
            0,
        )

    def _begins(self, tail: str) -> bool:
        return any(stop.startswith(tail) for stop in self._stops)
