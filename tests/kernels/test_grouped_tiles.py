import pytest
import torch
import triton
import triton.language as tl

from open_mythos.kernels import grouped_tiles
from open_mythos.kernels.grouped_tiles import NARROW_TILE, WIDE_TILE, Tile, fit, locate, row_tiles


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILE = Tile(16, 16, 16, 4, 2, bulk=True)


@triton.jit
def _find(ends, out, experts, EXPERTS: tl.constexpr, ROWS: tl.constexpr):
    tile = tl.program_id(0)
    expert, first, end = locate(ends, tile, experts, EXPERTS, ROWS)
    tl.store(out + tile * 3, expert)
    tl.store(out + tile * 3 + 1, first)
    tl.store(out + tile * 3 + 2, end)


@pytest.mark.parametrize("counts", [[5], [0, 33, 0], [16, 1, 0, 0, 40], [0, 0, 17], [3, 32, 32, 0]])
def test_tiles_cover_every_row_once_and_the_rest_say_so(counts):
    ends = torch.tensor(counts).cumsum(0).int().to(DEVICE)
    experts, total = len(counts), sum(counts)
    tiles = row_tiles(total, experts, TILE)
    out = torch.full((tiles, 3), -1, dtype=torch.int32, device=DEVICE)
    _find[(tiles,)](ends, out, experts, EXPERTS=triton.next_power_of_2(experts), ROWS=TILE.rows)
    seen = []
    for expert, first, end in out.tolist():
        if expert < experts:
            assert end == sum(counts[: expert + 1])
            seen += [(expert, row) for row in range(first, min(first + TILE.rows, end))]
    assert seen == [(e, row) for e, n in enumerate(counts) for row in range(ends[e] - n, ends[e])]


@pytest.mark.parametrize(
    ("generation", "want"),
    [(8, NARROW_TILE), (9, TILE), (10, TILE._replace(bulk=False)), (12, NARROW_TILE)],
)
def test_a_tile_is_what_the_gpu_holds(monkeypatch, generation, want):
    monkeypatch.setattr(grouped_tiles, "_generation", lambda _: generation)
    assert fit(TILE, torch.zeros(1, dtype=torch.bfloat16)) == want
    assert fit(TILE, torch.zeros(1)) == WIDE_TILE
