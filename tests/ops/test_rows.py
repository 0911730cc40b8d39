"""Row operations against their formulas, and the choice of implementation."""

import pytest
import torch
from torch.nn import functional as F

from open_mythos.ops import rows as rows_module
from open_mythos.ops.reference import rotate_reference
from open_mythos.ops.rows import (
    WIDEST,
    add_norm,
    rotate_heads,
    rows_backend,
    sum_norm,
    sum_norm_norm,
    swiglu,
)


EPS = 1e-5


def rms(x: torch.Tensor) -> torch.Tensor:
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) / x.shape[-1] + EPS)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_add_norm() -> None:
    x, y, weight = noise(2, 3, 8), noise(2, 3, 8), noise(8)
    total, normed = add_norm(x, y, weight, EPS)
    torch.testing.assert_close(total, x + y)
    torch.testing.assert_close(normed, rms(x + y) * weight)
    same, alone = add_norm(x, None, weight, EPS)
    assert same is x
    torch.testing.assert_close(alone, rms(x) * weight)


def test_sum_norm() -> None:
    h, signal, e, weight = noise(2, 3, 8), noise(8), noise(2, 3, 8), noise(8)
    torch.testing.assert_close(sum_norm(h, signal, e, weight, EPS), rms(h + signal + e) * weight)
    torch.testing.assert_close(sum_norm(h, None, e, weight, EPS), rms(h + e) * weight)
    each = noise(2, 3, 8)
    torch.testing.assert_close(sum_norm(h, each, e, weight, EPS), rms(h + each + e) * weight)


@pytest.mark.parametrize("signal", [None, (8,), (2, 3, 8)])
def test_sum_norm_norm(signal: tuple[int, ...] | None) -> None:
    h, e, first, second = noise(2, 3, 8), noise(2, 3, 8), noise(8), noise(8)
    added = None if signal is None else noise(*signal)
    x, read = sum_norm_norm(h, added, e, (first, EPS), (second, EPS))
    want = rms(h + e if added is None else h + added + e) * first
    torch.testing.assert_close(x, want)
    torch.testing.assert_close(read, rms(want) * second)


def test_swiglu() -> None:
    gate, up = noise(4, 3), noise(4, 3)
    got = swiglu(torch.cat((gate, up), dim=-1))
    torch.testing.assert_close(got, gate / (1 + torch.exp(-gate)) * up)


@pytest.mark.parametrize("per_row", [True, False])
def test_rotate_heads(per_row: bool) -> None:
    x, angles = noise(2, 3, 4, 6), noise(*((2, 3, 3) if per_row else (3, 3)))
    got = rotate_heads(x, angles.cos(), angles.sin())
    torch.testing.assert_close(got, rotate_reference(x, angles.cos(), angles.sin()))


def test_gradients_reach_every_input() -> None:
    h, signal, e, weight = noise(2, 8), noise(8), noise(2, 8), noise(8)
    assert torch.autograd.gradcheck(
        lambda *t: sum_norm(t[0], t[1], t[2], t[3], EPS), (h, signal, e, weight)
    )
    assert torch.autograd.gradcheck(lambda *t: add_norm(t[0], t[1], t[2], EPS), (h, e, weight))
    assert torch.autograd.gradcheck(swiglu, (h,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_rows_dtype_is_kept_whatever_the_weights_are(dtype: torch.dtype) -> None:
    x, weight, signal = torch.randn(2, 8).to(dtype), torch.randn(8), torch.randn(8).double()
    assert all(t.dtype == dtype for t in add_norm(x, x, weight, EPS))
    assert sum_norm(x, signal, x, weight, EPS).dtype == dtype
    assert swiglu(x).dtype == dtype


def test_the_cpu_takes_the_plain_definitions() -> None:
    with torch.no_grad():
        assert rows_backend(torch.randn(2, 8)) == "plain"


class OnCuda:
    """What `rows_backend` asks of a tensor, without a device."""

    is_cuda = True

    def __init__(
        self, *shape: int, dtype: torch.dtype = torch.bfloat16, requires_grad: bool = False
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.requires_grad = requires_grad


def test_kernels_serve_inference_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "HAS_TRITON", True)
    x, weight = OnCuda(2, 8), OnCuda(8, requires_grad=True)
    assert rows_backend(x) == "triton"
    assert rows_backend(x, None, weight) == "plain"
    with torch.no_grad():
        assert rows_backend(x, None, weight) == "triton"
        assert rows_backend(OnCuda(2, WIDEST)) == "triton"
        assert rows_backend(OnCuda(2, WIDEST + 1)) == "plain"
        assert rows_backend(OnCuda(2, 8, dtype=torch.float64)) == "plain"
        assert rows_backend(x, torch.randn(8)) == "plain"
        monkeypatch.setattr(rows_module, "traced", lambda: True)
        assert rows_backend(x) == "plain"
        monkeypatch.setattr(rows_module, "traced", lambda: False)
        monkeypatch.setattr(rows_module, "HAS_TRITON", False)
        assert rows_backend(x) == "plain"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.no_grad()
def test_on_cuda_the_kernels_agree_with_the_plain_definitions() -> None:
    x, y, w = (torch.randn(*s, device="cuda").bfloat16() for s in [(2, 5, 96), (2, 5, 96), (96,)])
    heads, angles = x.view(2, 5, 4, 24), torch.randn(5, 12, device="cuda")
    table = angles.cos(), angles.sin()
    assert rows_backend(x, y, w) == "triton"
    pairs = [
        (add_norm(x, y, w, EPS)[1], rms(x.double() + y.double()) * w.double()),
        (sum_norm(x, w, y, w, EPS), rms(x.double() + w.double() + y.double()) * w.double()),
        (swiglu(x), F.silu(x.double()[..., :48]) * x.double()[..., 48:]),
        (rotate_heads(heads, *table), rotate_reference(heads.double(), *table)),
    ]
    for got, want in pairs:
        assert (got.double() - want).norm() < 1e-2 * want.norm()
