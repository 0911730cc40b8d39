import numpy as np
import pytest

from open_mythos.data.tasks.powers import iterate


@pytest.mark.parametrize("hops", [0, 1, 2, 3, 7, 8, 45, 1000])
def test_a_power_is_that_many_single_steps(hops: int) -> None:
    draw = np.random.default_rng()
    f, starts = draw.integers(9, size=(5, 9)), draw.integers(9, size=(5, 4))
    rows = zip(iterate(f, starts, hops).tolist(), starts.tolist(), strict=True)
    for row, (found, walk) in enumerate(rows):
        for _ in range(hops):
            walk = [int(f[row, x]) for x in walk]
        assert found == walk
