"""Fused projections: what they give, and that gradients in one pass are autograd's."""

from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from open_mythos.ops import projections
from open_mythos.ops.projections import (
    MANY_ROWS,
    heads_backend,
    join_keys,
    one_pass,
    put_ends,
    swiglu,
    turn_ends,
    turn_qkv,
    turn_queries,
    whole_heads,
)
from open_mythos.ops.reference import rotate_reference


needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tables(length: int, pairs: int, batch: int | None = None) -> tuple[Tensor, Tensor]:
    angles = torch.randn(*((batch,) if batch else ()), length, pairs) * 9
    return angles.cos(), angles.sin()


@pytest.mark.parametrize("batch", [None, 2])
def test_turn_qkv_is_the_reference_part_by_part(batch: int | None) -> None:
    qkv, (cos, sin) = torch.randn(2, 5, 7 * 6), tables(5, 3, batch)
    q, k, v = turn_qkv(qkv, cos, sin, 3, 2)
    parts = qkv.unflatten(-1, (7, 6))
    torch.testing.assert_close(q, rotate_reference(parts[:, :, :3], cos, sin))
    torch.testing.assert_close(k, rotate_reference(parts[:, :, 3:5], cos, sin))
    assert torch.equal(v, parts[:, :, 5:])


def test_turn_queries_turns_the_last_channels_of_each_head() -> None:
    joint, (cos, sin) = torch.randn(2, 5, 3 * 7), tables(5, 2)
    got = turn_queries(joint, cos, sin, 3, 3)
    assert torch.equal(got[..., :3], joint[..., :9].unflatten(-1, (3, 3)))
    turned = rotate_reference(joint[..., 9:].unflatten(-1, (3, 4)), cos, sin)
    torch.testing.assert_close(got[..., 3:], turned)


def test_join_keys_ends_every_key_in_the_shared_channels() -> None:
    joint, shared = torch.randn(2, 5, 3 * 7), torch.randn(2, 5, 4)
    k, v = join_keys(joint, shared, 3, 3)
    every = joint.unflatten(-1, (3, 7))
    assert torch.equal(k[..., :3], every[..., :3])
    assert torch.equal(k[..., 3:], torch.stack((shared,) * 3, dim=2))
    assert torch.equal(v, every[..., 3:])


def test_ends_are_turned_where_they_lie() -> None:
    heads, (cos, sin) = torch.randn(2, 5, 3, 7), tables(5, 2)
    want = torch.cat((heads[..., :3], rotate_reference(heads[..., 3:], cos, sin)), dim=-1)
    assert turn_ends(heads, cos, sin) is heads
    torch.testing.assert_close(heads, want)


def test_ends_are_put_into_every_head() -> None:
    heads, shared = torch.randn(2, 5, 3, 9), torch.randn(2, 5, 4)
    want = torch.cat((heads[..., :3], torch.stack((shared,) * 3, dim=2), heads[..., 7:]), dim=-1)
    assert put_ends(heads, shared, 3) is heads
    assert torch.equal(heads, want)


def test_swiglu_is_its_formula() -> None:
    gate, up = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    torch.testing.assert_close(swiglu(torch.cat((gate, up), -1)), gate * gate.sigmoid() * up)


def test_a_cpu_or_a_call_without_gradient_takes_the_plain_way() -> None:
    x = torch.zeros(2, requires_grad=True)
    assert not one_pass(x)
    if torch.cuda.is_available() and find_spec("triton"):
        there = torch.zeros(2, device="cuda")
        assert not one_pass(there)
        assert one_pass(there.requires_grad_())
        assert not one_pass(there.double())
        with torch.no_grad():
            assert not one_pass(there)


def test_heads_are_written_whole_on_a_gpu_with_or_without_gradient() -> None:
    x = torch.zeros(2, requires_grad=True)
    assert not whole_heads(x)
    if torch.cuda.is_available() and find_spec("triton"):
        there = torch.zeros(2, device="cuda")
        assert whole_heads(there)
        assert whole_heads(there.requires_grad_(), there)
        assert not whole_heads(there, x)
        assert not whole_heads(there, there.half())
        assert not whole_heads(there.double())


def test_long_prompts_alone_have_their_heads_written_in_place() -> None:
    """On a CPU nothing has; on a GPU what has many rows, and no gradient."""
    assert heads_backend(torch.empty(2, MANY_ROWS, 4, device="meta")) == "plain"
    if torch.cuda.is_available() and find_spec("triton"):
        few, many = (torch.zeros(2, n, 4, device="cuda") for n in (MANY_ROWS // 2 - 1, MANY_ROWS))
        assert heads_backend(few) == "triton"
        assert heads_backend(many, few) == "in place"
        assert heads_backend(many.requires_grad_()) == "triton"


def _qkv(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    q, k, v = turn_qkv(x * 2, cos, sin, 3, 2)
    keys, values = k.repeat_interleave(2, 2)[:, :, :3], v.repeat_interleave(2, 2)[:, :, :3]
    scores = torch.einsum("bthd,bshd->bhts", q, keys).softmax(-1)
    return torch.einsum("bhts,bshd->bthd", scores, values)


def _queries(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return turn_queries(x * 2, cos, sin, 3, 6).square()


def _keys(x: Tensor, cos: Tensor, *_: Tensor) -> Tensor:
    """Keys and values that are both used, with gradients for what they come from."""
    k, v = join_keys(x[..., :24] * 2, x[..., 24:30].sin(), 3, 5)
    return torch.einsum("bthd,bshd->bhts", k, k).softmax(-1) @ v.transpose(1, 2)


def _swiglu(x: Tensor, *_: Tensor) -> Tensor:
    return swiglu(x * 2).square()


@needs_triton
# torch 2.13, inside its compiler.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("call", [_qkv, _queries, _keys, _swiglu])
@pytest.mark.parametrize("how", ["eager", "compiled", "recomputed"])
def test_the_gradient_in_one_pass_is_autograds(
    call: Callable[..., Tensor], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 5, 42 if call is not _queries else 3 * 12)
    cos, sin = (t.to(DEVICE) for t in tables(5, 3))
    exact = x.double().requires_grad_()
    for rule in ("one_pass", "whole_heads"):
        monkeypatch.setattr(projections, rule, lambda *_: False)
    want = call(exact, cos.cpu(), sin.cpu())
    weight = torch.randn_like(want)
    (d_want,) = torch.autograd.grad(want, exact, weight)
    x = x.to(DEVICE).requires_grad_()
    for rule in ("one_pass", "whole_heads"):
        monkeypatch.setattr(projections, rule, lambda *_: True)
    run = call
    if how == "compiled":
        torch._dynamo.reset()
        run = torch.compile(call, backend="aot_eager", fullgraph=True)
    got = (
        checkpoint(run, x, cos, sin, use_reentrant=False)
        if how == "recomputed"
        else run(x, cos, sin)
    )
    (d_got,) = torch.autograd.grad(got, x, weight.float().to(DEVICE))
    torch.testing.assert_close(got.cpu().double(), want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(d_got.cpu().double(), d_want, rtol=1e-4, atol=1e-4)


@needs_triton
@pytest.mark.filterwarnings("ignore")  # the compiler's advice is not ours to take here
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_recorded_gradient_is_the_eager_one(dtype: torch.dtype) -> None:
    """Torch 2.11 lost that of queries and keys in float32; backend aot_eager shows it too."""
    cos, sin = (t.to(DEVICE) for t in tables(6, 4))
    qkv = torch.randn(2, 6, 8 * 8, device=DEVICE, dtype=dtype)
    ups = [torch.randn(2, 6, heads, 8, device=DEVICE, dtype=dtype) for heads in (4, 2, 2)]

    def loss(x: Tensor) -> Tensor:
        parts = turn_qkv(x, cos, sin, 4, 2)
        return torch.stack([(part * up).sum() for part, up in zip(parts, ups, strict=True)]).sum()

    def gradient(call: Callable[[Tensor], Tensor]) -> Tensor:
        x = qkv.clone().requires_grad_()
        return torch.autograd.grad(call(x), x)[0].float()

    torch._dynamo.reset()
    want = gradient(loss)
    got = gradient(torch.compile(loss, backend="aot_eager"))
    torch.testing.assert_close(got, want, rtol=2e-2, atol=1e-2 if dtype == torch.bfloat16 else 1e-5)
