"""Counters: what an engine has done, and what it is doing, in numbers for whoever watches it."""

from dataclasses import dataclass


@dataclass
class Counters:
    """Totals since the engine was made.

    Attributes:
        steps: Steps in which there was something to do.
        requests: Requests taken in.
        finished: Continuations that ended, by themselves or otherwise.
        tokens: Tokens written.
        loops: Loops of the positions that said them.
        turns: Calls of the core.
        positions: Rows of those calls that were somebody's: loops of all positions, prompts too.
        read: Positions that went through the network, prompts and repeated reading included.
    """

    steps: int = 0
    requests: int = 0
    finished: int = 0
    tokens: int = 0
    loops: int = 0
    turns: int = 0
    positions: int = 0
    read: int = 0


@dataclass(frozen=True)
class Stats:
    """An engine at one moment.

    Attributes:
        waiting: Continuations that have no row.
        running: Those that have one.
        lanes: Positions in the network.
        blocks: Blocks of the cache.
        used: Blocks that somebody owns.
        idle: Blocks kept for texts that begin alike.
        block_bytes: Bytes of a block.
        reused: Positions found in the cache so far.
        preemptions: How often a continuation made room so far.
        evictions: Idle blocks given up so far.
        totals: What was done so far.
    """

    waiting: int
    running: int
    lanes: int
    blocks: int
    used: int
    idle: int
    block_bytes: int
    reused: int
    preemptions: int
    evictions: int
    totals: Counters
