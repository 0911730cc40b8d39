"""DepthBar: a block for every token, as high and as warm as the loops that it took."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.text import Text


BLOCKS = "▁▂▃▄▅▆▇█"
# From few loops to many; readable on black and on white.
COLOURS = ("#3b7dd8", "#2a9d8f", "#5aa84a", "#9aa32f", "#c98a1b", "#d8702a", "#d9503f", "#c23b7a")


def level(loops: int, most: int) -> int:
    """0 .. 7: which block stands for so many loops out of `most`."""
    if most <= 1:
        return len(BLOCKS) - 1
    share = (min(max(loops, 1), most) - 1) / (most - 1)
    return round(share * (len(BLOCKS) - 1))


def blocks(loops: Sequence[int], most: int) -> Text:
    """One block per token."""
    bar = Text()
    for used in loops:
        place = level(used, most)
        bar.append(BLOCKS[place], COLOURS[place])
    return bar


@dataclass
class Tally:
    """What one answer took.

    Attributes:
        most: Loops that a token could take.
        loops: Of each token so far.
        now: A clock, in seconds.
        began: When the answer was asked for.
        ended: When its last token came.
    """

    most: int
    loops: list[int] = field(default_factory=list)
    now: Callable[[], float] = time.monotonic
    began: float = field(init=False)
    ended: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.ended = self.now()

    def add(self, loops: int) -> None:
        """A token more."""
        self.loops.append(loops)
        self.ended = self.now()

    @property
    def mean(self) -> float:
        """Loops of a token."""
        return sum(self.loops) / len(self.loops) if self.loops else 0.0

    @property
    def speed(self) -> float:
        """Tokens per second since the answer was asked for, the reading of the prompt included."""
        seconds = self.ended - self.began
        return len(self.loops) / seconds if seconds > 0 else 0.0

    def __str__(self) -> str:
        return (
            f"{self.mean:.1f} of {self.most} loops a token, {len(self.loops)} tokens, "
            f"{self.speed:.1f} tokens/s"
        )

    def line(self, width: int) -> Text:
        """The bar of the last tokens and the numbers, in one line of a terminal."""
        told = f"  {self}"
        room = max(width - len(told), 0)
        shown = blocks(self.loops[-room:] if room else (), self.most)
        return Text.assemble(shown, (told, "dim"), no_wrap=True)
