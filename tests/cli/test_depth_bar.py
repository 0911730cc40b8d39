"""The bar: a block a token, ordered as loops are, in the room that there is."""

import random

import pytest

from open_mythos.cli.depth_bar import BLOCKS, COLOURS, Tally, blocks, level


@pytest.mark.parametrize("most", [1, 2, 5, 8, 64])
def test_blocks_rise_from_the_lowest_to_the_highest(most: int) -> None:
    levels = [level(loops, most) for loops in range(1, most + 1)]
    assert levels == sorted(levels)
    assert levels[-1] == len(BLOCKS) - 1
    assert most == 1 or levels[0] == 0
    assert len(set(levels)) == min(most, len(BLOCKS))
    assert (level(0, most), level(most + 9, most)) == (levels[0], levels[-1])


def test_every_token_has_a_block_in_the_colour_of_its_height() -> None:
    loops = [random.randint(1, 8) for _ in range(50)]
    bar = blocks(loops, 8)
    assert bar.plain == "".join(BLOCKS[n - 1] for n in loops)
    found = {span.start: span.style for span in bar.spans}
    assert [found[i] for i in range(50)] == [COLOURS[n - 1] for n in loops]


def test_numbers_are_those_of_the_tokens() -> None:
    clock = iter([10.0, 10.5, 11.0, 12.0])
    tally = Tally(8, now=lambda: next(clock))
    assert (tally.mean, tally.speed) == (0.0, 0.0)
    for loops in (1, 2, 6):
        tally.add(loops)
    assert (tally.mean, tally.speed) == (3.0, 1.5)
    assert str(tally) == "3.0 of 8 loops a token, 3 tokens, 1.5 tokens/s"


def test_a_line_shows_the_last_tokens_that_fit() -> None:
    tally = Tally(8, now=iter(range(1000)).__next__)
    for loops in (1, 3, 5, 7) * 20:
        tally.add(loops)
    told = f"  {tally}"
    for width in (20, len(told), len(told) + 1, len(told) + 10, 400):
        line = tally.line(width).plain
        room = max(width - len(told), 0)
        kept = tally.loops[-room:] if room else []
        assert line == blocks(kept, 8).plain + told
        assert len(line) <= max(width, len(told))
