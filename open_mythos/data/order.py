"""Shuffled orders that are never made: where a number lands, from the keys of its epoch alone."""

import numpy as np
import numpy.typing as npt

from open_mythos.data.streams import Purpose, stream


Numbers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

ROUNDS = 6
# A Feistel network over very few numbers reaches few of their orders. Over 64 numbers, walked until
# it lands among the few, it reaches them all, as the tests count.
LEAST_HALF = 3
# Multipliers and shifts of splitmix64's finaliser (Steele, Lea and Flood, 2014).
MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def shuffled(numbers: Numbers, size: int, seed: int, purpose: Purpose, index: int = 0) -> Numbers:
    """The places of `numbers`, each in [0, size), in an order that (seed, purpose, index) fixes.

    For each key the map is one-to-one on [0, size), so an epoch that asks for every number once
    gets every place once. Memory and time go with the numbers asked for, not with `size`: a Feistel
    network permutes the next power of four, and what lands outside is sent through again (cycle
    walking; fewer than four turns on average from 17 numbers on).
    """
    keys = stream(seed, purpose, index).integers(1 << 64, size=ROUNDS, dtype=np.uint64)
    half = max(LEAST_HALF, ((size - 1).bit_length() + 1) // 2)
    places = _network(numbers.astype(np.uint64), half, keys)
    outside = places >= size
    while outside.any():
        places[outside] = _network(places[outside], half, keys)
        outside = places >= size
    return places.astype(np.int64)


def _network(words: Words, half: int, keys: Words) -> Words:
    """One-to-one on 2 * half bits: each round adds a keyed hash of one half to the other."""
    width, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = words >> width, words & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    joined: Words = (left << width) | right
    return joined


def _mixed(words: Words) -> Words:
    words = (words ^ (words >> SHIFTS[0])) * MIX[0]
    words = (words ^ (words >> SHIFTS[1])) * MIX[1]
    mixed: Words = words ^ (words >> SHIFTS[2])
    return mixed
