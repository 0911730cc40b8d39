"""Decode attention over a static cache against its plain twin in float64."""

import pytest
import torch
from torch import Tensor

from open_mythos.kernels.decode_attention import (
    decode_attention,
    decode_latent_attention,
    decode_paged,
    decode_paged_latent,
)
from open_mythos.kernels.stretches import Tiling
from open_mythos.ops.decode import attend_lengths_reference
from open_mythos.ops.paged import Blocks, attend_blocks_plain


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SPLIT = Tiling(tile=16, splits=3)
WHOLE = Tiling(tile=16, splits=1)


def noise(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(DEVICE, dtype)


def spoil(entries: Tensor, lengths: Tensor, starts: Tensor | None) -> Tensor:
    """NaN wherever a row shows nothing: what is there must not matter."""
    key = torch.arange(entries.shape[1], device=entries.device)
    hidden = key >= lengths[:, None]
    if starts is not None:
        hidden = hidden | (key < starts[:, None])
    return entries.masked_fill(hidden.view(*hidden.shape, *[1] * (entries.dim() - 2)), torch.nan)


def whole(*values: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor(values, device=DEVICE, dtype=dtype)


def expect(
    got: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    starts: Tensor | None,
    scale: float,
) -> None:
    """Relative norm per row, so that a wrong short row is not lost behind a long one."""
    want = attend_lengths_reference(q.double(), k.double(), v.double(), lengths, starts, scale)
    assert got.dtype == q.dtype
    assert got.shape == want.shape
    bound = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[q.dtype]
    for ours, theirs in zip(got.double(), want, strict=True):
        assert torch.linalg.norm(ours - theirs) <= bound * torch.linalg.norm(theirs)


def check_grouped(
    k: Tensor, v: Tensor, heads: int, lengths: Tensor, starts: Tensor | None, tiling: Tiling | None
) -> None:
    q = noise(1, k.shape[0], 1, heads, k.shape[3], dtype=k.dtype)
    k, v = spoil(k, lengths, starts), spoil(v, lengths, starts)
    got = decode_attention(q, k, v, lengths, starts, 0.3, tiling)
    expect(got, q, k, v, lengths, starts, 0.3)


@pytest.mark.parametrize("tiling", [SPLIT, WHOLE, None])
@pytest.mark.parametrize(
    ("heads", "key_heads", "width", "value_width"),
    [(4, 2, 16, 16), (17, 1, 24, 8)],  # 17 in a group: two blocks of heads
)
def test_grouped_queries_equal_the_twin(
    heads: int, key_heads: int, width: int, value_width: int, tiling: Tiling | None
) -> None:
    lengths = whole(77, 0)
    k, v = noise(2, 2, 80, key_heads, width), noise(3, 2, 80, key_heads, value_width)
    check_grouped(k, v, heads, lengths, None, tiling)


@pytest.mark.parametrize("tiling", [SPLIT, WHOLE, None])
@pytest.mark.parametrize(("heads", "latent", "rope"), [(4, 32, 8), (17, 24, 16)])
def test_latent_queries_equal_the_twin(
    heads: int, latent: int, rope: int, tiling: Tiling | None
) -> None:
    lengths, starts = whole(70, 17), whole(3, 16)
    c_kv = spoil(noise(4, 2, 72, latent), lengths, starts)
    k_rope = spoil(noise(5, 2, 72, rope), lengths, starts)
    q = noise(6, 2, 1, heads, latent + rope)
    got = decode_latent_attention(q, c_kv, k_rope, lengths, starts, 0.2, tiling)
    keys = torch.cat((c_kv, k_rope), dim=-1).unsqueeze(2)
    expect(got, q, keys, c_kv.unsqueeze(2), lengths, starts, 0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tiling", [SPLIT, WHOLE])
def test_16_bit_inputs_round_only_weights_and_result(dtype: torch.dtype, tiling: Tiling) -> None:
    lengths = whole(61, 33)
    k, v = noise(7, 2, 64, 1, 32, dtype=dtype), noise(8, 2, 64, 1, 32, dtype=dtype)
    check_grouped(k, v, 4, lengths, None, tiling)
    c_kv, k_rope = noise(9, 2, 64, 32, dtype=dtype), noise(10, 2, 64, 16, dtype=dtype)
    q = noise(11, 2, 1, 5, 48, dtype=dtype)
    got = decode_latent_attention(q, c_kv, k_rope, lengths, None, 0.2, tiling)
    keys = torch.cat((c_kv, k_rope), dim=-1).unsqueeze(2)
    expect(got, q, keys, c_kv.unsqueeze(2), lengths, None, 0.2)


@pytest.mark.parametrize("seed", range(5))
def test_any_stretch_of_any_row(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 101, (4,), generator=g).to(DEVICE, torch.int32)
    starts = torch.randint(0, 101, (4,), generator=g).to(DEVICE, torch.int32)
    starts[0] = lengths[0]  # shows nothing
    tiling = Tiling(tile=16, splits=1 + seed)
    check_grouped(
        noise(seed, 4, 100, 1, 16), noise(seed + 9, 4, 100, 1, 16), 2, lengths, starts, tiling
    )


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    lengths = whole(60)
    k = noise(12, 1, 64, 1, 16) * torch.linspace(-200, 200, 64, device=DEVICE)[None, :, None, None]
    check_grouped(k, noise(13, 1, 64, 1, 16), 2, lengths, None, SPLIT)


def test_views_are_read_by_their_strides() -> None:
    lengths, starts = whole(40, 31), whole(0, 5)
    joined = noise(14, 40, 3, 2, 48)  # time first, k and v side by side, a row too many
    cache = joined.transpose(0, 1)[1:]
    check_grouped(cache[..., :16], cache[..., 16:], 4, lengths, starts, SPLIT)
    check_grouped(cache[..., ::3], cache[..., 1::3], 4, lengths, starts, SPLIT)  # no unit stride
    both = noise(15, 2, 40, 40)
    c_kv, k_rope = both.split([32, 8], dim=-1)
    q = noise(16, 2, 4, 1, 40).transpose(1, 2)
    got = decode_latent_attention(q, c_kv, k_rope, lengths, starts, 0.2, SPLIT)
    expect(got, q, both.unsqueeze(2), c_kv.unsqueeze(2), lengths, starts, 0.2)


def test_one_length_for_all_rows_may_be_an_expanded_scalar() -> None:
    check_grouped(
        noise(17, 3, 40, 1, 16), noise(18, 3, 40, 1, 16), 2, whole(37).expand(3), None, SPLIT
    )


def test_a_length_beyond_the_capacity_reads_the_capacity() -> None:
    room = noise(19, 1, 64, 1, 16)
    k, q = room[:, :40], noise(20, 1, 1, 2, 16)
    room[:, 40:] = torch.nan
    got = decode_attention(q, k, k, whole(1000), None, 0.3, SPLIT)
    expect(got, q, k, k, whole(40), None, 0.3)


def test_the_cut_changes_rounding_only_and_runs_repeat_bitwise() -> None:
    k, v, q = noise(21, 2, 90, 1, 16), noise(22, 2, 90, 1, 16), noise(23, 2, 1, 4, 16)
    lengths = whole(90, 41)
    outs = [decode_attention(q, k, v, lengths, None, 0.3, Tiling(16, s)) for s in (1, 4, 4)]
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-5, atol=1e-6)
    assert torch.equal(outs[1], outs[2])


def test_no_rows() -> None:
    q, k = noise(24, 0, 1, 2, 16), noise(25, 0, 8, 1, 16)
    assert decode_attention(q, k, k, whole(), None, 1.0).shape == (0, 1, 2, 16)


def strewn(key_heads: int, seed: int) -> tuple[Tensor, Blocks]:
    """Blocks of 4 of 40 keys, and rows that see some of theirs; row 3 sees none."""
    g = torch.Generator().manual_seed(seed)
    table = torch.randint(0, 10, (3, 5), generator=g).to(DEVICE)
    lines, shift = whole(0, 2, 1, 1, 2), whole(0, 14, 14, 0, 3)
    blocks = Blocks(table, lines, shift, whole(20, 3, 7, 0, 12))
    return noise(seed, 24, 4, key_heads, 16), blocks


@pytest.mark.parametrize("tiling", [SPLIT, WHOLE, None])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 2), (17, 1), (3, 3)])
def test_blocks_are_read_through_their_tables(
    heads: int, key_heads: int, tiling: Tiling | None
) -> None:
    k, blocks = strewn(key_heads, 30)
    v, q = noise(31, 24, 4, key_heads, 8), noise(32, 5, 1, heads, 16)
    for shift in (blocks.shift, whole(2)):
        there = Blocks(blocks.table, blocks.lines, shift, blocks.ends)
        lookup = (there.table, there.lines, shift)
        got = decode_paged(q, k, v, there.ends, lookup, 0.3, tiling)
        want = attend_blocks_plain(q.double(), k.double(), v.double(), there, 0.3)
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tiling", [SPLIT, WHOLE, None])
def test_latents_in_blocks_are_read_through_their_tables(tiling: Tiling | None) -> None:
    keys, blocks = strewn(1, 33)
    c_kv = keys.squeeze(2)
    k_rope, q = noise(34, 24, 4, 8), noise(35, 5, 1, 5, 24)
    lookup = (blocks.table, blocks.lines, blocks.shift)
    got = decode_paged_latent(q, c_kv, k_rope, blocks.ends, lookup, 0.2, tiling)
    both = torch.cat((c_kv, k_rope), dim=-1).unsqueeze(2)
    want = attend_blocks_plain(q.double(), both.double(), keys.double(), blocks, 0.2)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.gpu
def test_a_captured_call_follows_the_lengths() -> None:
    k, v, q = noise(26, 2, 256, 2, 64), noise(27, 2, 256, 2, 64), noise(28, 2, 1, 8, 64)
    k, v, q = k.bfloat16(), v.bfloat16(), q.bfloat16()
    lengths = whole(3, 200)
    for _ in range(2):
        decode_attention(q, k, v, lengths, None, 0.1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = decode_attention(q, k, v, lengths, None, 0.1)
    for values in ((3, 200), (256, 0), (100, 101)):
        lengths.copy_(whole(*values))
        graph.replay()
        expect(out, q, k, v, lengths, None, 0.1)
