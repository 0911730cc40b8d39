"""Screens: where answers are shown, on a terminal with a live bar, or plain everywhere else."""

import re
import time
from collections.abc import Generator
from contextlib import closing, suppress
from typing import Protocol, TextIO

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from open_mythos.cli.depth_bar import Tally, blocks
from open_mythos.generate.text import Piece


# A model may write any character; these would command the terminal instead of being read.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
BETWEEN_DRAWS = 1 / 15  # seconds


class Screen(Protocol):
    """Who shows a session."""

    def note(self, text: str) -> None:
        """Say something that is no answer."""
        ...

    def show(self, pieces: Generator[Piece, None, None], most: int) -> Tally:
        """Show an answer while it comes; Ctrl-C ends it.

        Args:
            pieces: The answer; closed at the end, however it comes.
            most: Loops that a token can take.
        """
        ...


def harmless(text: str) -> str:
    """The text, without what terminals obey."""
    return UNSEEN.sub("\ufffd", text)


class PlainScreen:
    """Answers to one stream as they come, everything else to another; no control codes."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        """Two streams."""
        self._out, self._err = out, err

    def note(self, text: str) -> None:
        """Say something, apart from the answers."""
        self._err.write(f"{text}\n")
        self._err.flush()

    def show(self, pieces: Generator[Piece, None, None], most: int) -> Tally:
        """Write an answer, then its numbers."""
        tally = Tally(most)
        with suppress(KeyboardInterrupt), closing(pieces):
            for piece in pieces:
                tally.add(piece.loops)
                self._out.write(harmless(piece.text))
                self._out.flush()
        self._out.write("\n")
        self._out.flush()
        self.note(f"[{tally}]")
        return tally


class LiveScreen:
    """Answers on a terminal, above a bar that grows with them."""

    def __init__(self, console: Console) -> None:
        """On a console."""
        self._console = console

    def note(self, text: str) -> None:
        """Say something, fainter than the answers."""
        self._console.print(Text(text, "dim"))

    def show(self, pieces: Generator[Piece, None, None], most: int) -> Tally:
        """Show an answer; behind it stays the bar of all its tokens.

        Lines that are full scroll away above what is drawn anew: the line that is being written,
        and the bar.
        """
        tally, lines = Tally(most), OpenLine()
        with (
            suppress(KeyboardInterrupt),
            Live(console=self._console, auto_refresh=False, transient=True) as live,
            closing(pieces),
        ):
            drawn = 0.0
            for piece in pieces:
                tally.add(piece.loops)
                width = self._console.width
                full = lines.push(harmless(piece.text), width)
                live.update(Group(Text(lines.rest), tally.line(width)))
                for line in full:
                    self._console.print(Text(line))
                if full or time.monotonic() - drawn > BETWEEN_DRAWS:
                    live.refresh()
                    drawn = time.monotonic()
        if lines.rest:
            self._console.print(Text(lines.rest))
        self._console.print(blocks(tally.loops, most))
        self.note(str(tally))
        return tally


class OpenLine:
    """Text that comes in pieces, as lines of a terminal.

    Attributes:
        rest: The last line, which is not full.
    """

    def __init__(self) -> None:
        """With nothing in it."""
        self.rest = ""

    def push(self, text: str, width: int) -> list[str]:
        """Lines that are full now, of `width` cells at most; blanks at their ends are dropped."""
        *ended, self.rest = (self.rest + text.expandtabs(4)).split("\n")
        full: list[str] = []
        for line in ended:
            parts, last = folded(line, width)
            full += [*parts, last]
        parts, self.rest = folded(self.rest, width)
        return full + parts


def folded(line: str, width: int) -> tuple[list[str], str]:
    """Full lines of `width` cells at most, cut at blanks where there are any, and the rest."""
    full = []
    while cell_len(line) > width:
        fits = _fitting(line, width)
        blank = line.rfind(" ", 0, fits + 1)
        cut = fits if blank <= 0 or not line[:blank].strip() else blank
        full.append(line[:cut].rstrip())
        line = line[cut:].removeprefix(" ")
    return full, line


def _fitting(line: str, width: int) -> int:
    """Characters that fit; at least one."""
    used = 0
    for place, character in enumerate(line):
        used += cell_len(character)
        if used > width:
            return max(place, 1)
    return len(line)
