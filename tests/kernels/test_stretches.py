"""How contexts are cut; what the stretches say together is held in test_decode_attention."""

import pytest

from open_mythos.kernels.stretches import MOST_SPLITS, PROGRAMS, default_tiling, power


@pytest.mark.parametrize("groups", [1, 2, 4, 32, 64, 256, 5000])
@pytest.mark.parametrize("row_bytes", [256, 576, 1152, 2304])
def test_the_default_cut_fills_the_gpu_once(groups: int, row_bytes: int) -> None:
    cut = default_tiling(groups, 32768, row_bytes)
    assert 1 <= cut.splits <= MOST_SPLITS
    assert cut.splits == 1 or cut.splits * groups <= PROGRAMS
    assert cut.tile in (16, 32, 64)
    assert default_tiling(groups, 16, row_bytes).splits == 1


def test_powers_are_the_next_ones() -> None:
    assert [power(n) for n in (1, 2, 3, 4, 5, 64, 65)] == [1, 2, 4, 4, 8, 64, 128]
