"""Every attention backend against softmax written out in loops, forward and backward."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from open_mythos.errors import InputError
from open_mythos.ops.attend import attend, attend_summed
from open_mythos.ops.backend import HAS_FLASH
from open_mythos.ops.reference import attend_reference


def by_definition(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, bias: Tensor, scale: float
) -> Tensor:
    """One query at a time: softmax over the keys it may see. (B,T,H,e) (B,S,K,e) (B,S,K,f)."""
    rows = []
    groups = q.shape[2] // k.shape[2]
    for b in range(q.shape[0]):
        for i in range(q.shape[1]):
            for h in range(q.shape[2]):
                keys = [j for j in range(k.shape[1]) if allowed[b, h, i, j]]
                scores = torch.stack(
                    [(q[b, i, h] * k[b, j, h // groups]).sum() * scale for j in keys]
                ) + torch.stack([bias[b, h, i, j] for j in keys])
                weights = (scores - scores.max()).exp()
                weights = weights / weights.sum()
                rows.append(
                    sum(w * v[b, j, h // groups] for w, j in zip(weights, keys, strict=True))
                )
    return torch.stack(rows).view(*q.shape[:3], -1)


@st.composite
def problems(draw: st.DrawFn) -> dict[str, object]:
    kv_heads = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    keys = draw(st.integers(1, 6))
    queries = draw(st.integers(1, keys))
    batch, e, f = draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**31))
    g = torch.Generator().manual_seed(seed)
    causal = draw(st.booleans())
    kind = draw(st.sampled_from(["none", "bool", "bool_broadcast", "additive"]))
    heads = kv_heads * groups

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    mask: Tensor | None = None
    itself = torch.eye(keys, dtype=torch.bool)[keys - queries :]
    if kind == "bool":
        mask = (torch.rand(batch, heads, queries, keys, generator=g) < 0.5) | itself
    elif kind == "bool_broadcast":
        mask = (torch.rand(batch, 1, queries, keys, generator=g) < 0.5) | itself
    elif kind == "additive":
        mask = noise(1, 1, queries, keys)
        hidden = (torch.rand(queries, keys, generator=g) < 0.3) & ~itself
        mask = mask.masked_fill(hidden, -math.inf)
    return {
        "q": noise(batch, queries, heads, e),
        "k": noise(batch, keys, kv_heads, e),
        "v": noise(batch, keys, kv_heads, f),
        "mask": mask,
        "causal": causal,
        "scale": draw(st.sampled_from([None, 0.3, 1.7])),
    }


def split(problem: dict[str, object]) -> tuple[Tensor, Tensor, Tensor, float]:
    """(allowed, bias) as full tensors, and the scale as a number."""
    q, k, mask = problem["q"], problem["k"], problem["mask"]
    assert isinstance(q, Tensor)
    assert isinstance(k, Tensor)
    shape = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    allowed, bias = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.float64)
    if isinstance(mask, Tensor):
        if mask.dtype == torch.bool:
            allowed = allowed & mask
        else:
            allowed, bias = allowed & (mask > -math.inf), bias + mask
    if problem["causal"]:
        past = k.shape[1] - q.shape[1]
        ok = torch.tensor([[j <= i + past for j in range(k.shape[1])] for i in range(q.shape[1])])
        allowed = allowed & ok
    scale = problem["scale"]
    return allowed, bias, q, float(scale) if scale is not None else q.shape[-1] ** -0.5


BACKENDS = ["auto", "sdpa", "reference"]


@pytest.mark.parametrize("backend", BACKENDS)
@given(problem=problems())
def test_backends_equal_the_definition_forward_and_backward(
    backend: str, problem: dict[str, object]
) -> None:
    allowed, bias, _, scale = split(problem)
    tensors = [problem[n].clone().requires_grad_() for n in ("q", "k", "v")]
    twins = [problem[n].clone().requires_grad_() for n in ("q", "k", "v")]
    got = attend(
        *tensors,
        mask=problem["mask"],
        causal=problem["causal"],
        scale=problem["scale"],
        backend=backend,
    )
    want = by_definition(*twins, allowed, bias, scale)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    up = torch.randn_like(want)
    (got * up).sum().backward()
    (want * up).sum().backward()
    for tensor, twin in zip(tensors, twins, strict=True):
        torch.testing.assert_close(tensor.grad, twin.grad, rtol=1e-9, atol=1e-9)


@given(problem=problems())
def test_in_float32_sdpa_equals_the_reference(problem: dict[str, object]) -> None:
    q, k, v = (problem[n].float() for n in ("q", "k", "v"))
    mask = problem["mask"]
    mask = mask.float() if mask is not None and mask.dtype != torch.bool else mask
    got = attend(q, k, v, mask=mask, causal=problem["causal"], scale=0.5, backend="sdpa")
    want = attend_reference(q, k, v, mask, 0.5, causal=problem["causal"])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_half_precision_stays_near_the_float64_definition(dtype: torch.dtype, masked: bool) -> None:
    q, k, v = (torch.randn(2, 5, h, 8).to(dtype) for h in (4, 2, 2))
    mask = torch.randn(1, 1, 5, 5) if masked else None  # a float32 mask on 16-bit queries
    got = attend(q, k, v, mask=mask)
    wide = None if mask is None else mask.double()
    want = attend_reference(q.double(), k.double(), v.double(), wide, 8**-0.5, causal=True)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=0.05, atol=0.05)


def test_dropout_drops_and_none_is_exact() -> None:
    q, k, v = (torch.randn(1, 6, 2, 4) for _ in range(3))
    exact = attend(q, k, v)
    assert torch.equal(exact, attend(q, k, v, dropout=0.0))
    assert not torch.allclose(exact, attend(q, k, v, dropout=0.5))


def test_unknown_backend_is_refused_by_name() -> None:
    q = torch.randn(1, 2, 1, 4)
    with pytest.raises(InputError, match="sdpda"):
        attend(q, q, q, backend="sdpda")


def test_flash_on_a_cpu_is_refused_with_the_way_out() -> None:
    q = torch.randn(1, 2, 1, 4)
    with pytest.raises(InputError, match="sdpa"):
        attend(q, q, q, backend="flash")


@pytest.mark.gpu
@pytest.mark.skipif(not (torch.cuda.is_available() and HAS_FLASH), reason="needs flash-attn")
@pytest.mark.parametrize("past", [0, 5])
def test_flash_equals_the_reference(past: int) -> None:
    q = torch.randn(2, 7, 4, 16, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(2, 7 + past, 2, 16, device="cuda", dtype=torch.bfloat16) for _ in "kv")
    got = attend(q, k, v, backend="flash").double()
    want = attend_reference(q.double(), k.double(), v.double(), None, 0.25, causal=True)
    torch.testing.assert_close(got, want, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("mask", ["none", "bool", "bool_broadcast", "additive"])
@pytest.mark.parametrize(("batch", "heads", "kv_heads"), [(1, 6, 2), (2, 3, 3), (1, 4, 1)])
def test_one_query_in_sums_is_attention(mask: str, batch: int, heads: int, kv_heads: int) -> None:
    g = torch.Generator().manual_seed(heads)
    q = torch.randn(batch, 1, heads, 5, generator=g, dtype=torch.float64)
    k = torch.randn(batch, 7, kv_heads, 5, generator=g, dtype=torch.float64)
    v = torch.randn(batch, 7, kv_heads, 4, generator=g, dtype=torch.float64)
    shown = {
        "none": None,
        "bool": torch.rand(batch, heads, 1, 7, generator=g) < 0.5,
        "bool_broadcast": torch.rand(batch, 1, 1, 7, generator=g) < 0.5,
        "additive": torch.randn(1, 1, 1, 7, generator=g, dtype=torch.float64),
    }[mask]
    if shown is not None and shown.dtype == torch.bool:
        shown[..., 3] = True
    want = attend_reference(q, k, v, shown, 0.3, causal=True)
    torch.testing.assert_close(attend_summed(q, k, v, shown, 0.3), want)
    near = attend_summed(q.bfloat16(), k.bfloat16(), v.bfloat16(), shown, 0.3)
    assert near.dtype == torch.bfloat16
    assert (near.double() - want).norm() < 0.01 * want.norm()
