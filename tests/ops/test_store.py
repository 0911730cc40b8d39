"""What is written into a static cache: what attention and its cache do one after the other."""

import pytest
import torch
from torch import Tensor

from open_mythos.nn.norm import RMSNorm
from open_mythos.ops import rows, store as store_module
from open_mythos.ops.reference import rotate_reference
from open_mythos.ops.store import rotate_query, rotate_store, store_backend, store_latent


@pytest.fixture(params=[torch.float64, torch.bfloat16])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    kind: torch.dtype = request.param
    return kind


def tables(per_row: bool, pairs: int) -> tuple[Tensor, Tensor]:
    angles = torch.randn(*((3, 1, pairs) if per_row else (1, pairs)))
    return angles.cos(), angles.sin()


def written(before: Tensor, new: Tensor, position: int) -> Tensor:
    return torch.cat((before[:, :position], new, before[:, position + 1 :]), dim=1)


@pytest.mark.parametrize("per_row", [True, False])
def test_rotate_store(dtype: torch.dtype, per_row: bool) -> None:
    q, k, v = (torch.randn(3, 1, n, 6).to(dtype) for n in (4, 2, 2))
    cos, sin = tables(per_row, 3)
    keys, values = torch.randn(3, 5, 2, 6).to(dtype), torch.randn(3, 5, 2, 6).to(dtype)
    want = [
        written(keys, rotate_reference(k, cos, sin), 3),
        written(values, v, 3),
        rotate_reference(q, cos, sin),
    ]
    joint = torch.cat([t.flatten(-2) for t in (q, k, v)], dim=-1)
    got = rotate_store(joint, cos, sin, keys, values, torch.tensor([3]))
    for mine, other in zip((keys, values, got), want, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("per_row", [True, False])
def test_store_latent(dtype: torch.dtype, per_row: bool) -> None:
    q, latent, key = (torch.randn(3, 1, n).to(dtype) for n in (7, 5, 4))
    norms = RMSNorm(7, eps=1e-2).to(dtype), RMSNorm(5).to(dtype)
    for norm in norms:
        torch.nn.init.normal_(norm.weight)
    cos, sin = tables(per_row, 2)
    c_kv, k_rope = torch.randn(3, 4, 5).to(dtype), torch.randn(3, 4, 4).to(dtype)
    with torch.no_grad():
        want = [
            written(c_kv, norms[1](latent), 0),
            written(k_rope, rotate_reference(key.unsqueeze(2), cos, sin).squeeze(2), 0),
            norms[0](q),
        ]
        down = torch.cat((q, latent, key), dim=-1)
        pairs = [(norm.weight, norm.eps) for norm in norms]
        got = store_latent(down, *pairs, cos, sin, c_kv, k_rope, torch.tensor([0]))
    for mine, other in zip((c_kv, k_rope, got), want, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("per_row", [True, False])
def test_rotate_query(dtype: torch.dtype, per_row: bool) -> None:
    latent, still, turning = (torch.randn(3, 1, 2, n).to(dtype) for n in (5, 3, 4))
    cos, sin = tables(per_row, 2)
    joint = torch.cat((still.flatten(-2), turning.flatten(-2)), dim=-1)
    got = rotate_query(latent, joint, cos, sin)
    assert torch.equal(got[..., :5], latent)
    torch.testing.assert_close(got[..., 5:], rotate_reference(turning, cos, sin))


def test_without_a_position_everything_is_written(dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(3, 4, n, 6).to(dtype) for n in (4, 2, 2))
    angles = torch.randn(4, 3)
    cos, sin = angles.cos(), angles.sin()
    keys, values = torch.zeros_like(k), torch.zeros_like(v)
    joint = torch.cat([t.flatten(-2) for t in (q, k, v)], dim=-1)
    got = rotate_store(joint, cos, sin, keys, values)
    torch.testing.assert_close(got, rotate_reference(q, cos, sin))
    torch.testing.assert_close(keys, rotate_reference(k, cos, sin))
    assert torch.equal(values, v)

    latent, key = torch.randn(3, 4, 5).to(dtype), torch.randn(3, 4, 6).to(dtype)
    query, norm = torch.randn(3, 4, 7).to(dtype), RMSNorm(5).to(dtype)
    c_kv, k_rope = torch.zeros_like(latent), torch.zeros_like(key)
    down = torch.cat((query, latent, key), dim=-1)
    pairs = (torch.ones(7, dtype=dtype), 1e-6), (norm.weight.detach(), norm.eps)
    got = store_latent(down, *pairs, cos, sin, c_kv, k_rope)
    torch.testing.assert_close(got, RMSNorm(7).to(dtype)(query))
    torch.testing.assert_close(c_kv, norm(latent))
    torch.testing.assert_close(k_rope, rotate_reference(key.unsqueeze(2), cos, sin).squeeze(2))


def test_caches_keep_their_dtype() -> None:
    cos, sin = tables(False, 2)
    k, v = torch.zeros(3, 2, 1, 4).bfloat16(), torch.zeros(3, 2, 1, 4).half()
    got = rotate_store(torch.randn(3, 1, 12), cos, sin, k, v, torch.tensor([1]))
    assert (got.dtype, k.dtype, v.dtype) == (torch.float32, torch.bfloat16, torch.float16)
    assert (k[:, 0] == 0).all()
    assert (v[:, 1] != 0).all()


class OnCuda:
    """What `store_backend` asks of a tensor, without a device."""

    is_cuda = True
    requires_grad = False

    def __init__(self, *shape: int, dtype: torch.dtype = torch.bfloat16, step: int = 1) -> None:
        self.shape, self.dtype, self.step = shape, dtype, step

    def stride(self, _: int) -> int:
        return self.step


def test_kernels_serve_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(rows, "HAS_TRITON", True)
    x, cache = OnCuda(2, 1, 8), OnCuda(2, 5, 8)
    assert store_backend(x, stores=(cache,)) == "triton"
    assert store_backend(OnCuda(2, 2, 8), stores=(cache,)) == "triton"  # a prompt
    assert store_backend(x, stores=(OnCuda(2, 5, 8, step=2),)) == "plain"
    assert store_backend(x, stores=(OnCuda(2, 5, 8, dtype=torch.float64),)) == "plain"
    assert store_backend(x, torch.randn(2), stores=(cache,)) == "plain"
    assert store_backend(torch.randn(2, 1, 8)) == "plain"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.no_grad()
def test_on_cuda_the_kernel_writes_what_the_plain_definition_does() -> None:
    cos, sin = (t.cuda() for t in tables(False, 4))
    qkv, position = torch.randn(3, 1, 64, device="cuda").bfloat16(), torch.tensor([2]).cuda()
    caches = [torch.randn(3, 4, 2, 8, device="cuda").bfloat16() for _ in range(2)]
    plain = [t.clone() for t in caches]
    assert store_backend(qkv, cos, sin, position, stores=(caches[0], caches[1])) == "triton"
    got = rotate_store(qkv, cos, sin, *caches, position)
    want = store_module.rotate_store_plain(qkv, cos, sin, *plain, position)
    for mine, other in zip((got, *caches), (want, *plain), strict=True):
        torch.testing.assert_close(mine, other)
