"""Powers of maps, row by row: a thousand hops cost ten gathers."""

import numpy as np

from open_mythos.data.tasks.split import Ids


def iterate(f: Ids, x: Ids, hops: int) -> Ids:
    """f^hops(x) row by row, by repeated squaring of f.

    Args:
        f: (rows, S); f[row, s] is where s leads, in [0, S).
        x: (rows, Q) where each walk starts.
        hops: Steps, 0 or more.
    """
    power = f
    while hops:
        if hops & 1:
            x = np.take_along_axis(power, x, axis=1)
        power = np.take_along_axis(power, power, axis=1)
        hops >>= 1
    return x
