"""Which instances are for evaluation alone: a hash of the instance decides, not a list."""

import numpy as np
import numpy.typing as npt


Ids = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

# One instance in four is held out: few enough for training not to miss them, and drawing until a
# held-out one comes costs no more than four times the drawing.
HELD_OUT_IN = 4
# Fewer instances than these are not split: what a task of that size teaches is its table, and a
# quarter of the table could not be inferred from the rest.
LEAST_INSTANCES = 4096

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, the step of SplitMix64


def hashed(keys: npt.NDArray[np.integer]) -> Hashes:
    """A 64-bit hash of each row of keys (..., K): (...); equal rows, and only they, agree.

    A sum of the entries times odd constants, finished by the mixer of SplitMix64 (Steele et al.
    2014), in which every bit of the sum moves half of the bits of the result.
    """
    steps = np.arange(1, keys.shape[-1] + 1, dtype=np.uint64)
    factors = _mixed(steps * np.uint64(_GOLDEN)) | np.uint64(1)
    return _mixed((keys.astype(np.uint64) * factors).sum(axis=-1, dtype=np.uint64))


def is_held_out(keys: npt.NDArray[np.integer]) -> Flags:
    """Whether each row of keys (n, K) is for evaluation alone: (n,), one in four true."""
    chosen: Flags = hashed(keys) % np.uint64(HELD_OUT_IN) == 0
    return chosen


def _mixed(x: Hashes) -> Hashes:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
