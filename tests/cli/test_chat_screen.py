"""Screens: what a reader of a stream, or of a terminal played back cell by cell, gets to see."""

import random
import re
from collections.abc import Generator, Iterable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from open_mythos.cli.chat_screen import LiveScreen, OpenLine, PlainScreen, folded, harmless
from open_mythos.cli.depth_bar import blocks
from open_mythos.generate.text import Piece


WIDTH = 60


def said(texts: Iterable[str], closed: list[bool] | None = None) -> Generator[Piece, None, None]:
    try:
        for i, text in enumerate(texts):
            yield Piece(text, i, 1 + i % 4)
    finally:
        if closed is not None:
            closed.append(True)


def interrupted(texts: Iterable[str]) -> Generator[Piece, None, None]:
    yield from said(texts)
    raise KeyboardInterrupt


def words(count: int) -> list[str]:
    letters = "abcdefghij"
    made = ["".join(random.choices(letters, k=random.randint(1, 9))) for _ in range(count)]
    return [word + random.choice([" ", " ", " ", "\n", ", "]) for word in made]


class Terminal:
    """Rows of characters, moved about by the few commands that rich writes."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = [[]]
        self.row = self.column = 0

    def feed(self, text: str) -> "Terminal":
        for found in re.finditer(r"\x1b\[([?\d;]*)([A-Za-z])|(.)", text, re.DOTALL):
            numbers, command, character = found.groups()
            if command == "A":
                self.row -= int(numbers or 1)
            elif command == "K":
                assert numbers == "2"
                self.rows[self.row] = []
            elif command is not None:
                assert command in "mlh", command  # colours, and the cursor hidden or shown
            elif character == "\r":
                self.column = 0
            elif character == "\n":
                self.row, self.column = self.row + 1, 0
                self.rows += [[] for _ in range(self.row + 1 - len(self.rows))]
            else:
                row = self.rows[self.row]
                row += " " * (self.column + 1 - len(row))
                row[self.column] = character
                self.column += 1
        return self

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.rows]


@pytest.fixture
def live() -> Any:
    out = StringIO()
    console = Console(
        file=out, force_terminal=True, width=WIDTH, color_system="truecolor", highlight=False,
        legacy_windows=False, _environ={},
    )  # fmt: skip
    return LiveScreen(console), out


def test_plain_answers_and_their_numbers_go_separate_ways() -> None:
    out, err = StringIO(), StringIO()
    screen, closed = PlainScreen(out, err), list[bool]()
    screen.note("hello")
    tally = screen.show(said(["a", "", "b\n\x1b[31m", "é"], closed), 4)
    assert out.getvalue() == "ab\n\ufffd[31mé\n"
    assert err.getvalue() == f"hello\n[{tally}]\n"
    assert (tally.loops, tally.most, closed) == ([1, 2, 3, 4], 4, [True])


def test_a_plain_answer_that_is_broken_off_ends_its_line() -> None:
    out = StringIO()
    tally = PlainScreen(out, StringIO()).show(interrupted(["a", "b"]), 4)
    assert (out.getvalue(), tally.loops) == ("ab\n", [1, 2])


def test_a_terminal_shows_every_line_once_then_the_bar_and_the_numbers(live: Any) -> None:
    screen, out = live
    texts = words(80)
    tally = screen.show(said(texts), 4)
    expected = []
    for line in "".join(texts).split("\n"):
        full, rest = folded(line, WIDTH)
        expected += [*full, rest.rstrip()]
    bar = blocks(tally.loops, 4).plain
    bars = [bar[i : i + WIDTH] for i in range(0, len(bar), WIDTH)]
    if expected[-1] == "":
        expected.pop()
    lines = Terminal().feed(out.getvalue()).lines
    assert lines == [*expected, *bars, str(tally), ""]


def test_the_bar_is_there_while_the_answer_comes(live: Any) -> None:
    screen, out = live
    seen: list[list[str]] = []

    def watched() -> Generator[Piece, None, None]:
        for piece in said([*"hello", "\n"]):
            yield piece
            seen.append(Terminal().feed(out.getvalue()).lines)

    screen.show(watched(), 4)
    assert seen[-1][0] == "hello"
    assert any(line.startswith("▁▃▆█▁▃  ") for line in seen[-1])


def test_an_answer_broken_off_on_a_terminal_stays(live: Any) -> None:
    screen, out = live
    tally = screen.show(interrupted(["a ", "b"]), 4)
    assert Terminal().feed(out.getvalue()).lines == ["a b", "▁▃", str(tally), ""]


def test_nothing_commands_the_terminal() -> None:
    every = "".join(map(chr, range(0x100)))
    kept = harmless(every)
    assert len(kept) == len(every)
    assert {c for c in kept if not c.isprintable()} == {"\t", "\n", "\xa0", "\xad"}


def test_lines_are_cut_at_blanks_and_lose_nothing_else() -> None:
    for _ in range(30):
        texts, width, line = words(40), random.randint(1, 30), OpenLine()
        found = [full for text in texts for full in line.push(text, width)]
        assert all(len(row) <= width for row in [*found, line.rest])
        whole = "".join(texts)
        assert "".join([*found, line.rest]).replace(" ", "") == re.sub(r"\s", "", whole)
        at_once = OpenLine()
        assert [*at_once.push(whole, width), at_once.rest] == [*found, line.rest]


def test_wide_characters_take_two_cells() -> None:
    assert folded("日本語テキスト", 5) == (["日本", "語テ", "キス"], "ト")
    assert folded("日本", 1) == (["日", "本"], "")  # at least one, where none has room
