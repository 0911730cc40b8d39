"""Heads of two parts and their gradients, against torch's own joining in float64."""

import pytest
import torch
from torch.nn import functional as F

from open_mythos.kernels.heads import join_heads, put_ends, split_keys, turn_ends
from open_mythos.ops.reference import rotate_reference


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter cuts bfloat16 off instead of rounding it.
LIMITS = {
    torch.float32: 1e-6,
    torch.float16: 2e-3,
    torch.bfloat16: 4e-3 if DEVICE == "cuda" else 1e-2,
}


def distance(got, want):
    return ((got.double() - want).norm() / want.norm().clamp(min=1e-30)).item()


def laid_out(x, layout):
    """The same numbers with other strides."""
    if layout == "heads first":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "time last":
        return x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    if layout == "inside":
        return F.pad(x, (3, 5))[..., 3:-5]
    return x


@pytest.mark.parametrize("dtype", list(LIMITS))
@pytest.mark.parametrize("layout", ["plain", "heads first", "time last", "inside"])
@pytest.mark.parametrize(
    ("batch", "length", "heads", "still", "last", "per_row"),
    [(2, 5, 4, 8, 4, False), (3, 7, 3, 6, 10, True), (1, 1, 1, 1, 2, False), (2, 3, 2, 0, 4, True)],
)
def test_queries_are_still_and_turned(layout, batch, length, heads, still, last, per_row, dtype):
    first, second = (torch.randn(batch, length, heads, n).to(dtype) for n in (still, last))
    angles = torch.randn(*((batch,) if per_row else ()), length, last // 2) * 9
    cos, sin = angles.cos(), angles.sin()
    parts = [laid_out(t.to(DEVICE), layout) for t in (first, second)]
    got = join_heads(*parts, cos.to(DEVICE), sin.to(DEVICE)).cpu()
    assert got.is_contiguous()
    assert torch.equal(got[..., :still], first)
    want = rotate_reference(second.double(), cos.double(), sin.double())
    assert distance(got[..., still:], want) < LIMITS[dtype]


@pytest.mark.parametrize("layout", ["plain", "inside"])
@pytest.mark.parametrize("dtype", list(LIMITS))
def test_keys_end_in_what_all_heads_share(layout, dtype):
    still, shared = torch.randn(2, 9, 3, 6).to(dtype), torch.randn(2, 9, 1, 4).to(dtype)
    parts = [laid_out(t.to(DEVICE), layout) for t in (still, shared)]
    got = join_heads(*parts, None, None).cpu()
    assert torch.equal(got, torch.cat((still, shared.expand(2, 9, 3, 4)), dim=-1))


def test_many_heads_need_many_programs():
    still, last = torch.randn(1, 3, 80, 64), torch.randn(1, 3, 80, 32)
    angles = torch.randn(3, 16)
    got = join_heads(*(t.to(DEVICE) for t in (still, last, angles.cos(), angles.sin()))).cpu()
    want = rotate_reference(last.double(), angles.double().cos(), angles.double().sin())
    assert torch.equal(got[..., :64], still)
    assert distance(got[..., 64:], want) < LIMITS[torch.float32]


@pytest.mark.parametrize("dtype", list(LIMITS))
@pytest.mark.parametrize("layout", ["plain", "heads first", "time last", "inside"])
@pytest.mark.parametrize(
    ("batch", "length", "heads", "still", "shared", "value"),
    [(2, 5, 4, 8, 4, 8), (3, 4, 3, 6, 10, 5), (1, 1, 1, 1, 2, 1), (2, 1, 5, 0, 4, 3)],
)
def test_gradients_of_keys_are_autograds(layout, batch, length, heads, still, shared, value, dtype):
    joint = torch.zeros(batch, length, heads, still + value, dtype=torch.float64).requires_grad_()
    last = torch.zeros(batch, length, 1, shared, dtype=torch.float64).requires_grad_()
    keys = torch.cat((joint[..., :still], last.expand(-1, -1, heads, -1)), dim=-1)
    grads = [torch.randn(keys.shape).to(dtype), torch.randn(batch, length, heads, value).to(dtype)]
    want = torch.autograd.grad(
        [keys, joint[..., still:]], [joint, last], [d.double() for d in grads]
    )
    d_joint, d_shared = split_keys(*(laid_out(d.to(DEVICE), layout) for d in grads), shared)
    assert d_joint.is_contiguous()
    assert d_joint.dtype == d_shared.dtype == dtype
    assert torch.equal(d_joint.cpu().double(), want[0].flatten(-2))  # copied
    assert distance(d_shared.cpu(), want[1].squeeze(2)) < LIMITS[dtype]


def test_the_sum_over_many_heads_is_one_sum():
    grads = torch.randn(1, 2, 70, 64 + 64), torch.randn(1, 2, 70, 128)
    d_joint, d_shared = split_keys(*(d.to(DEVICE) for d in grads), 64)
    assert distance(d_shared.cpu(), grads[0][..., 64:].double().sum(2)) < LIMITS[torch.float32]
    want = torch.cat((grads[0][..., :64], grads[1]), dim=-1).flatten(-2)
    assert torch.equal(d_joint.cpu(), want)


def test_ops_are_registered_as_torch_wants_them():
    tests = ("test_schema", "test_faketensor")
    still, last = torch.randn(1, 2, 3, 4, device=DEVICE), torch.randn(1, 2, 3, 2, device=DEVICE)
    tables = torch.randn(2, 2, 1, device=DEVICE).unbind()
    torch.library.opcheck(join_heads, (still, last, *tables), test_utils=tests)
    torch.library.opcheck(join_heads, (still, last[:, :, :1], None, None), test_utils=tests)
    grads = torch.randn(1, 2, 3, 6, device=DEVICE), torch.randn(1, 2, 3, 5, device=DEVICE)
    torch.library.opcheck(split_keys, (*grads, 2), test_utils=tests)


def test_nothing_gives_nothing():
    still, last = torch.zeros(0, 3, 2, 4, device=DEVICE), torch.zeros(0, 3, 2, 2, device=DEVICE)
    assert join_heads(still, last, None, None).shape == (0, 3, 2, 6)
    d_joint, d_shared = split_keys(torch.zeros(0, 3, 2, 6, device=DEVICE), still, 2)
    assert d_joint.shape == (0, 3, 16)
    assert d_shared.shape == (0, 3, 2)


@pytest.mark.parametrize("dtype", list(LIMITS))
@pytest.mark.parametrize(
    ("batch", "length", "heads", "still", "last", "per_row"),
    [
        (2, 5, 4, 8, 4, False),
        (3, 7, 3, 6, 10, True),
        (1, 1, 1, 0, 2, False),
        (1, 9, 30, 1, 2, True),
    ],
)
def test_ends_are_turned_where_they_lie(batch, length, heads, still, last, per_row, dtype):
    whole = torch.randn(batch, length, heads, still + last).to(dtype)
    angles = torch.randn(*((batch,) if per_row else ()), length, last // 2) * 9
    cos, sin = angles.cos(), angles.sin()
    there = whole.to(DEVICE, copy=True)
    assert turn_ends(there, cos.to(DEVICE), sin.to(DEVICE)) is there
    got = there.cpu()
    assert torch.equal(got[..., :still], whole[..., :still])
    want = rotate_reference(whole[..., still:].double(), cos.double(), sin.double())
    assert distance(got[..., still:], want) < LIMITS[dtype]


@pytest.mark.parametrize("dtype", list(LIMITS))
@pytest.mark.parametrize("layout", ["plain", "heads first", "time last", "inside"])
@pytest.mark.parametrize(
    ("batch", "length", "heads", "before", "shared", "behind"),
    [(2, 5, 4, 8, 4, 8), (3, 7, 3, 6, 10, 5), (1, 1, 1, 0, 2, 0), (1, 9, 30, 3, 2, 1)],
)
def test_ends_are_put_into_every_head(layout, batch, length, heads, before, shared, behind, dtype):
    whole = torch.randn(batch, length, heads, before + shared + behind).to(dtype)
    one = torch.randn(batch, length, 1, shared).to(dtype)
    there = whole.to(DEVICE, copy=True)
    assert put_ends(there, laid_out(one.to(DEVICE), layout).squeeze(2), before) is there
    want = whole.clone()
    want[..., before : before + shared] = one
    assert torch.equal(there.cpu(), want)


def test_only_whole_heads_are_written_in_place():
    heads = torch.zeros(1, 2, 3, 8, device=DEVICE)[..., :6]
    with pytest.raises(ValueError, match="contiguous"):
        put_ends(heads, torch.zeros(1, 2, 2, device=DEVICE), 4)
    none = torch.zeros(0, 2, 3, 8, device=DEVICE)
    assert put_ends(none, torch.zeros(0, 2, 2, device=DEVICE), 4) is none
