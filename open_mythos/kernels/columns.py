"""Columns of the table of rows that stay on the device: numbers that kernels and torch share.

Triton is not needed to read them.
"""

from enum import IntEnum


STOPS = 8  # tokens that may end a row's text; who names more waits for the host

# What a row does: nothing; it has a token to enter with; it is in the loop; it has left it.
IDLE, READY, LOOPING, LANDING = range(4)


class At(IntEnum):
    """Columns of the rows' state; those up to LEFT change from round to round."""

    STATUS = 0
    TOKEN = 1
    POSITION = 2
    DEPTH = 3  # loops done
    SAID = 4  # tokens of its text so far
    LEFT = 5  # loops after which it left the loop
    ENDS = 6  # loops at most
    MOST = 7  # tokens of its text at most
    COVERED = 8  # positions that it has blocks for
    SEED_LOW = 9
    SEED_HIGH = 10
    INDEX = 11
    TOP_K = 12
    STOPS = 13  # and the columns behind


WIDTH = At.STOPS + STOPS
CHANGING = At.LEFT + 1


class Out(IntEnum):
    """Lines of what a round says, by row that it picked up."""

    ROW = 0
    TOKEN = 1
    LOOPS = 2
    READ = 3
    SOUND = 4
    WAITING = 5  # in its first place: rows that the next round can pick up


class Number(IntEnum):
    """Lines of the numbers of a call."""

    LANE = 0
    POSITION = 1
    PLACE = 2  # inside of a slot
    LOOPS = 3  # done
    ENDS = 4  # loops at most
    ROW = 5  # of the block table
    TOKEN = 6
