"""The gradients of fused projections against autograd through float64 definitions."""

import pytest
import torch
from torch.nn import functional as F

from open_mythos.kernels.projections import join_turned, swiglu_grad


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter cuts bfloat16 off instead of rounding it.
LIMITS = {
    torch.float32: 1e-6,
    torch.float16: 2e-3,
    torch.bfloat16: 4e-3 if DEVICE == "cuda" else 1e-2,
}


def distance(got, want):
    return ((got.double() - want).norm() / want.norm().clamp(min=1e-30)).item()


def turned_parts(joint, shapes, turned, angles):
    """Each part of a row in heads, the turned ones as complex numbers times a phasor."""
    phasor = torch.polar(torch.ones_like(angles), angles).unsqueeze(-2)
    parts = joint.split([h * w for h, w in shapes], dim=-1)
    for part, (heads, _), turns in zip(parts, shapes, turned, strict=True):
        part = part.unflatten(-1, (heads, -1))
        if turns:
            pairs = torch.view_as_complex(part.unflatten(-1, (-1, 2)))
            part = torch.view_as_real(pairs * phasor).flatten(-2)
        yield part


def laid_out(grad, layout):
    """The same numbers with other strides."""
    if layout == "heads first":
        return grad.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "time last":
        return grad.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    if layout == "inside":
        return F.pad(grad, (3, 5))[..., 3:-5]
    return grad


@pytest.mark.parametrize("layout", ["plain", "heads first", "time last", "inside"])
@pytest.mark.parametrize(
    ("batch", "length", "shapes", "turned", "per_row"),
    [
        (2, 5, [(4, 8), (2, 8), (2, 8)], [True, True, False], False),
        (3, 7, [(3, 6), (1, 6), (1, 6)], [True, True, False], True),
        (1, 1, [(1, 2), (1, 2), (1, 2)], [True, True, False], False),
        (2, 3, [(3, 10), (3, 4)], [False, True], True),  # widths differ
    ],
)
def test_parts_are_joined_and_turned_back(layout, batch, length, shapes, turned, per_row):
    g = torch.Generator().manual_seed(batch * length)
    pairs = next(w for (_, w), t in zip(shapes, turned, strict=True) if t) // 2
    angles = torch.randn(*((batch,) if per_row else ()), length, pairs, generator=g).double() * 9
    joint = torch.zeros(batch, length, sum(h * w for h, w in shapes), dtype=torch.float64)
    parts = list(turned_parts(joint.requires_grad_(), shapes, turned, angles))
    for dtype, limit in LIMITS.items():
        grads = [torch.randn(p.shape, generator=g).to(dtype) for p in parts]
        (want,) = torch.autograd.grad(parts, joint, [d.double() for d in grads], retain_graph=True)
        given = [laid_out(d.to(DEVICE), layout) for d in grads]
        tables = [t.float().to(DEVICE) for t in (angles.cos(), angles.sin())]
        got = join_turned(given, turned, *tables)
        assert got.dtype == dtype
        assert got.is_contiguous()
        assert distance(got.cpu(), want) < limit


def test_many_heads_need_many_programs():
    shapes, turned = [(48, 64), (16, 64), (16, 64)], [True, True, False]
    angles = torch.randn(3, 32).double()
    joint = torch.zeros(1, 3, 80 * 64, dtype=torch.float64, requires_grad=True)
    parts = list(turned_parts(joint, shapes, turned, angles))
    grads = [torch.randn(p.shape) for p in parts]
    (want,) = torch.autograd.grad(parts, joint, [d.double() for d in grads])
    tables = [t.float().to(DEVICE) for t in (angles.cos(), angles.sin())]
    got = join_turned([d.to(DEVICE) for d in grads], turned, *tables)
    assert distance(got.cpu(), want) < LIMITS[torch.float32]


@pytest.mark.parametrize("dtype", list(LIMITS))
@pytest.mark.parametrize("lead", [(1,), (2, 3)])
@pytest.mark.parametrize("half", [1, 24, 1030])
def test_swiglu_grad(dtype, lead, half):
    gate_up = (torch.randn(*lead, 2 * half) * 3).to(dtype)
    d_out = torch.randn(*lead, half).to(dtype)
    exact = gate_up.double().requires_grad_()
    gate, up = exact.chunk(2, -1)
    (want,) = torch.autograd.grad(gate / (1 + (-gate).exp()) * up, exact, d_out.double())
    got = swiglu_grad(d_out.to(DEVICE), gate_up.to(DEVICE))
    assert got.dtype == dtype
    assert distance(got.cpu(), want) < LIMITS[dtype]
    # Rows of wider rows, and one gradient for all.
    wide = F.pad(gate_up, (0, 7)).to(DEVICE)[..., :-7]
    assert torch.equal(swiglu_grad(d_out.to(DEVICE), wide), got)
    one = torch.ones((), dtype=dtype, device=DEVICE).expand(d_out.shape)
    assert torch.equal(swiglu_grad(one, wide), swiglu_grad(one.contiguous(), wide))


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # numpy, in the interpreter
def test_swiglu_grad_of_huge_gates_is_finite():
    gate_up = torch.tensor([[-1e30, -100.0, 100.0, 1e30, 1.0, 2.0, 3.0, 4.0]], device=DEVICE)
    got = swiglu_grad(torch.ones(1, 4, device=DEVICE), gate_up)[0].tolist()
    assert got == pytest.approx([0, 0, 3, 4, 0, 0, 100, 1e30], rel=1e-6, abs=1e-30)


def test_ops_are_registered_as_torch_wants_them():
    tests = ("test_schema", "test_faketensor")
    grads = [torch.randn(1, 2, h, 4, device=DEVICE) for h in (2, 1, 1)]
    tables = torch.randn(2, 2, 2, device=DEVICE).unbind()
    torch.library.opcheck(join_turned, (grads, [True, True, False], *tables), test_utils=tests)
    pair = torch.randn(2, 3, device=DEVICE), torch.randn(2, 6, device=DEVICE)
    torch.library.opcheck(swiglu_grad, pair, test_utils=tests)


def test_nothing_gives_nothing():
    empty = [torch.zeros(0, 3, h, 4, device=DEVICE) for h in (2, 1, 1)]
    tables = torch.zeros(2, 3, 2, device=DEVICE).unbind()
    assert join_turned(empty, [True, True, False], *tables).shape == (0, 3, 16)
    none = torch.zeros(0, 3, device=DEVICE), torch.zeros(0, 6, device=DEVICE)
    assert swiglu_grad(*none).shape == (0, 6)
