"""The kernels that write a cache against their plain twins in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from open_mythos.kernels import rotate_store as kernels
from open_mythos.ops import store as ops


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMIT = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(DEVICE, dtype)


def table(batch: int | None, pairs: int) -> tuple[Tensor, Tensor]:
    angles = 10 * noise(*((1, pairs) if batch is None else (batch, 1, pairs)))
    return angles.cos(), angles.sin()


def at(position: int) -> Tensor:
    return torch.tensor([position], device=DEVICE)


def check(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    assert got.shape == want.shape
    assert (got.double() - want).norm() <= LIMIT[dtype] * want.norm()


def untouched(got: Tensor, before: Tensor, position: int) -> bool:
    """Whether every other position of (B, C, ...) is as it was."""
    others = [i for i in range(got.shape[1]) if i != position]
    return torch.equal(got[:, others], before[:, others])


@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "width", "dtype"),
    [
        (1, 4, 2, 16, torch.bfloat16),
        (3, 3, 1, 6, torch.float32),
        (2, 20, 5, 128, torch.float16),
        (1, 1, 1, 2, torch.float32),
    ],
)
def test_rotate_store(
    batch: int, heads: int, kv_heads: int, width: int, dtype: torch.dtype, per_row: bool
) -> None:
    qkv = noise(batch, 1, (heads + 2 * kv_heads) * width, dtype=dtype)
    cos, sin = table(batch if per_row else None, width // 2)
    k, v = (noise(batch, 5, kv_heads, width, dtype=dtype) for _ in range(2))
    exact, before = [t.double() for t in (k, v)], [k.clone(), v.clone()]
    q = kernels.rotate_store(qkv, cos, sin, k, v, at(3))
    want = ops.rotate_store_plain(qkv.double(), cos.double(), sin.double(), *exact, at(3))
    check(q, want, dtype)
    check(k[:, 3], exact[0][:, 3], dtype)
    assert torch.equal(v[:, 3], qkv.unflatten(-1, (-1, width))[:, 0, heads + kv_heads :])
    assert untouched(k, before[0], 3)
    assert untouched(v, before[1], 3)


def test_rows_that_share_a_store_write_at_places_of_their_own() -> None:
    """As pages do: one line of places, which every row sees whole."""
    qkv, (cos, sin) = noise(3, 1, 6 * 8), table(3, 4)
    k, v = noise(9, 2, 8), noise(9, 2, 8)
    places = torch.tensor([7, 0, 4], device=DEVICE)
    want = [t.repeat(3, 1, 1, 1) for t in (k, v)]
    q_want = ops.rotate_store_plain(qkv, cos, sin, *want, places)
    q = kernels.rotate_store(qkv, cos, sin, *(t.expand(3, -1, -1, -1) for t in (k, v)), places)
    torch.testing.assert_close(q, q_want)
    for got, whole in zip((k, v), want, strict=True):
        for row, at in enumerate(places.tolist()):
            torch.testing.assert_close(got[at], whole[row, at])
        rest = [i for i in range(9) if i not in (0, 4, 7)]
        assert torch.equal(got[rest], whole[0, rest])
    down, norms = noise(3, 1, 24 + 16 + 8), [(noise(24), 1e-6), (noise(16), 1e-6)]
    c_kv, k_rope = noise(9, 16), noise(9, 8)
    want = [t.repeat(3, 1, 1) for t in (c_kv, k_rope)]
    ops.store_latent_plain(down, *norms, cos, sin, *want, places)
    stores = [t.expand(3, -1, -1) for t in (c_kv, k_rope)]
    kernels.store_latent(down, *norms, cos, sin, *stores, places)
    for got, whole in zip((c_kv, k_rope), want, strict=True):
        for row, at in enumerate(places.tolist()):
            torch.testing.assert_close(got[at], whole[row, at])


def cut(*shape: int, dtype: torch.dtype) -> Tensor:
    """A (B, C, ...) view whose rows and positions lie apart, position outermost."""
    wide = noise(shape[1], shape[0] + 1, *shape[2:-1], shape[-1] + 4, dtype=dtype)
    return wide[:, 1:, ..., : shape[-1]].transpose(0, 1)


def test_caches_and_projections_of_any_stride_and_dtype() -> None:
    qkv = noise(2, 2, 60)[:, 1:, 5:53]
    cos, sin = table(None, 4)
    k, v = cut(2, 4, 2, 8, dtype=torch.bfloat16), cut(2, 4, 2, 8, dtype=torch.float16)
    k_want, v_want = k.clone(), v.clone()
    got = kernels.rotate_store(qkv, cos, sin, k, v, at(0))
    want = ops.rotate_store_plain(qkv, cos, sin, k_want, v_want, at(0))
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(k, k_want)
    torch.testing.assert_close(v, v_want)


@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize(
    ("batch", "q", "r", "rope", "dtype"),
    [
        (1, 24, 16, 8, torch.bfloat16),
        (3, 40, 10, 6, torch.float32),
        (2, 0, 300, 2, torch.float16),
    ],
)
def test_store_latent(
    batch: int, q: int, r: int, rope: int, dtype: torch.dtype, per_row: bool
) -> None:
    down = noise(batch, 1, q + r + rope, dtype=dtype)
    cos, sin = table(batch if per_row else None, rope // 2)
    norms = [(noise(q, dtype=dtype), 1e-6), (noise(r, dtype=dtype), 1e-2)]
    stores = [noise(batch, 4, w, dtype=dtype) for w in (r, rope)]
    exact, before = [t.double() for t in stores], [t.clone() for t in stores]
    wide = [(weight.double(), eps) for weight, eps in norms]
    got = kernels.store_latent(down, *norms, cos, sin, *stores, at(2))
    want = ops.store_latent_plain(down.double(), *wide, cos.double(), sin.double(), *exact, at(2))
    check(got, want, dtype)
    for store, whole, old in zip(stores, exact, before, strict=True):
        check(store[:, 2], whole[:, 2], dtype)
        assert untouched(store, old, 2)


def test_latents_of_any_stride_and_dtype() -> None:
    down = noise(2, 2, 60)[:, 1:, 4:34]
    cos, sin = table(2, 3)
    norms = [(noise(14), 1e-6), (noise(10), 1e-6)]
    stores = [cut(2, 4, 10, dtype=torch.bfloat16), cut(2, 4, 6, dtype=torch.float16)]
    wants = [t.clone() for t in stores]
    got = kernels.store_latent(down, *norms, cos, sin, *stores, at(1))
    want = ops.store_latent_plain(down, *norms, cos, sin, *wants, at(1))
    torch.testing.assert_close(got, want)
    for store, whole in zip(stores, wants, strict=True):
        torch.testing.assert_close(store, whole)


@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize(
    ("batch", "heads", "r", "nope", "rope", "dtype"),
    [
        (1, 4, 16, 8, 8, torch.bfloat16),
        (3, 3, 10, 5, 6, torch.float32),
        (2, 5, 600, 4, 2, torch.float16),
    ],
)
def test_rotate_query(
    batch: int, heads: int, r: int, nope: int, rope: int, dtype: torch.dtype, per_row: bool
) -> None:
    joint = noise(batch, 1, heads * (nope + rope), dtype=dtype)
    cos, sin = table(batch if per_row else None, rope // 2)
    latent = noise(heads, batch, 1, r, dtype=dtype).permute(1, 2, 0, 3)  # as a product per head
    got = kernels.rotate_query(latent, joint, cos, sin)
    want = ops.rotate_query_plain(latent.double(), joint.double(), cos.double(), sin.double())
    assert got.is_contiguous()
    assert torch.equal(got[..., :r], latent)
    check(got, want, dtype)


@pytest.mark.parametrize("position", [-1, 4, 1000])
def test_nothing_is_written_where_there_is_no_room(position: int) -> None:
    cos, sin = table(None, 2)
    k, v = noise(2, 6, 1, 4)[:, 1:5], noise(2, 6, 1, 4)[:, 1:5]
    before = [t._base.clone() for t in (k, v) if t._base is not None]
    kernels.rotate_store(noise(2, 1, 16), cos, sin, k, v, at(position))
    c, p = noise(2, 6, 3)[:, 1:5], noise(2, 6, 4)[:, 1:5]
    before += [t._base.clone() for t in (c, p) if t._base is not None]
    norms = (noise(5), 1e-6), (noise(3), 1e-6)
    kernels.store_latent(noise(2, 1, 12), *norms, cos, sin, c, p, at(position))
    assert len(before) == 4
    after = [t._base for t in (k, v, c, p)]
    assert all(torch.equal(x, y) for x, y in zip(after, before, strict=True) if x is not None)


def test_no_rows() -> None:
    cos, sin = table(None, 2)
    empty: Callable[..., Tensor] = lambda *shape: torch.empty(0, *shape, device=DEVICE)  # noqa: E731
    got = kernels.rotate_store(empty(1, 16), cos, sin, empty(3, 1, 4), empty(3, 1, 4), at(0))
    assert got.shape == (0, 1, 2, 4)
    norms = (noise(5), 1e-6), (noise(3), 1e-6)
    got = kernels.store_latent(empty(1, 12), *norms, cos, sin, empty(2, 3), empty(2, 4), at(0))
    assert got.shape == (0, 1, 5)
    assert kernels.rotate_query(empty(1, 2, 3), empty(1, 20), cos, sin).shape == (0, 1, 2, 7)


@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("dtype", list(LIMIT))
def test_a_prompt_fills_the_room_set_aside_for_it(dtype: torch.dtype, per_row: bool) -> None:
    """Without a position all of the room is written, here the middle of a larger cache."""
    batch, length, heads, kv_heads, width = 2, 5, 3, 2, 6
    angles = noise(*((batch,) if per_row else ()), length, width // 2) * 9
    cos, sin = angles.cos(), angles.sin()
    qkv = noise(batch, length, (heads + 2 * kv_heads) * width, dtype=dtype)
    whole = [noise(batch, length + 4, kv_heads, width, dtype=dtype) for _ in range(2)]
    k, v = (t[:, 1 : 1 + length] for t in whole)
    before = [t.clone() for t in whole]
    exact = [torch.zeros_like(t, dtype=torch.float64) for t in (k, v)]
    want = ops.rotate_store_plain(qkv.double(), cos.double(), sin.double(), *exact)
    check(kernels.rotate_store(qkv, cos, sin, k, v, None), want, dtype)
    check(k, exact[0], dtype)
    assert torch.equal(v.double(), exact[1])
    for now, was in zip(whole, before, strict=True):
        assert torch.equal(now[:, :1], was[:, :1])
        assert torch.equal(now[:, 1 + length :], was[:, 1 + length :])


@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("dtype", list(LIMIT))
def test_a_prompts_latents_fill_the_room_set_aside_for_them(
    dtype: torch.dtype, per_row: bool
) -> None:
    batch, length, query, r, rope = 2, 5, 7, 6, 4
    angles = noise(*((batch,) if per_row else ()), length, rope // 2) * 9
    cos, sin = angles.cos(), angles.sin()
    down = noise(batch, length, query + r + rope, dtype=dtype)
    norms = (noise(query, dtype=dtype), 1e-6), (noise(r, dtype=dtype), 1e-2)
    whole = [noise(batch, length + 4, n, dtype=dtype) for n in (r, rope)]
    c_kv, k_rope = (t[:, 1 : 1 + length] for t in whole)
    before = [t.clone() for t in whole]
    exact = [torch.zeros_like(t, dtype=torch.float64) for t in (c_kv, k_rope)]
    wide = [(weight.double(), eps) for weight, eps in norms]
    want = ops.store_latent_plain(
        down.double(), wide[0], wide[1], cos.double(), sin.double(), exact[0], exact[1]
    )
    got = kernels.store_latent(down, *norms, cos, sin, c_kv, k_rope, None)
    check(got, want, dtype)
    check(c_kv, exact[0], dtype)
    check(k_rope, exact[1], dtype)
    for now, was in zip(whole, before, strict=True):
        assert torch.equal(now[:, :1], was[:, :1])
        assert torch.equal(now[:, 1 + length :], was[:, 1 + length :])
