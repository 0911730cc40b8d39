"""The row kernels against their plain twins in float64."""

import pytest
import torch

from open_mythos.kernels import rows
from open_mythos.ops.rotate import rotate
from open_mythos.ops.rows import (
    TINY,
    add_norm_plain,
    relative_change_plain,
    sum_norm_norm_plain,
    sum_norm_plain,
    swiglu_plain,
)


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMIT = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}
EPS = 1e-6

# Each pair is a kernel to compile: not all of all.
shapes = pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 1, 64), torch.bfloat16),
        ((3, 5, 48), torch.bfloat16),
        ((7, 300), torch.float32),
        ((2, 40), torch.float16),
        ((2, 1), torch.float32),
    ],
)


def noise(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape).to(DEVICE, dtype)


def check(got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    assert got.shape == want.shape
    assert (got.double() - want).norm() <= LIMIT[dtype] * want.norm()


@shapes
@pytest.mark.parametrize("added", [True, False])
def test_add_norm(dtype: torch.dtype, shape: tuple[int, ...], added: bool) -> None:
    x, weight = noise(*shape, dtype=dtype), noise(shape[-1], dtype=torch.float32)
    y = noise(*shape, dtype=dtype) if added else None
    total, normed = rows.add_norm(x, y, weight, EPS)
    want = add_norm_plain(x.double(), None if y is None else y.double(), weight.double(), EPS)
    check(total, want[0], dtype)
    check(normed, want[1], dtype)
    # The sum is the very one that torch forms, so that both routes carry the same residual; the
    # interpreter, though, cuts bfloat16 off where the device rounds.
    if DEVICE == "cuda" or dtype != torch.bfloat16:
        assert torch.equal(total, x if y is None else x + y)


@shapes
@pytest.mark.parametrize("indexed", [True, False])
def test_sum_norm(dtype: torch.dtype, shape: tuple[int, ...], indexed: bool) -> None:
    h, e = noise(*shape, dtype=dtype), noise(*shape, dtype=dtype)
    weight = noise(shape[-1], dtype=dtype)
    signal = noise(shape[-1], dtype=torch.float64) if indexed else None
    got = rows.sum_norm(h, signal, e, weight, EPS)
    check(got, sum_norm_plain(h.double(), signal, e.double(), weight.double(), EPS), dtype)


@shapes
@pytest.mark.parametrize("indexed", [True, False])
def test_sum_norm_norm(dtype: torch.dtype, shape: tuple[int, ...], indexed: bool) -> None:
    h, e = noise(*shape, dtype=dtype), noise(*shape, dtype=dtype)
    first, second = noise(shape[-1], dtype=dtype), noise(shape[-1], dtype=torch.float32)
    signal = noise(shape[-1], dtype=torch.float64) if indexed else None
    x, read = rows.sum_norm_norm(h, signal, e, (first, EPS), (second, 0.3))
    norms = (first.double(), EPS), (second.double(), 0.3)
    want = sum_norm_norm_plain(h.double(), signal, e.double(), *norms)
    check(x, want[0], dtype)
    check(read, want[1], dtype)
    assert torch.equal(x, rows.sum_norm(h, signal, e, first, EPS))
    assert torch.equal(read, rows.add_norm(x, None, second, 0.3)[1])  # rounded in between


def test_a_norm_of_rows_cut_from_wider_ones() -> None:
    wide, weight = noise(4, 6, 40, dtype=torch.float32), noise(24, dtype=torch.float32)
    x, y = wide[..., 8:32], wide[..., 16:]
    total, normed = rows.add_norm(x, y, weight, EPS)
    want = add_norm_plain(x.double(), y.double(), weight.double(), EPS)
    check(total, want[0], torch.float32)
    check(normed, want[1], torch.float32)


def test_a_row_of_zeros_stays_zero() -> None:
    zero = torch.zeros(2, 8, device=DEVICE)
    total, normed = rows.add_norm(zero, zero, torch.ones(8, device=DEVICE), EPS)
    assert (total == 0).all()
    assert (normed == 0).all()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 2), torch.float32),
        ((5, 64), torch.float16),
        ((2, 3, 60), torch.bfloat16),
        ((2, 4100), torch.float32),
    ],
)
def test_swiglu(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    gate_up = 3 * noise(*shape, dtype=dtype)
    check(rows.swiglu(gate_up), swiglu_plain(gate_up.double()), dtype)


@pytest.mark.filterwarnings("ignore:overflow")  # numpy, in the interpreter
def test_swiglu_of_extreme_gates() -> None:
    gate_up = torch.tensor([[-1e4, -90.0, 0.0, 90.0, 1e4, 2.0, 2.0, 2.0, 2.0, 2.0]], device=DEVICE)
    torch.testing.assert_close(rows.swiglu(gate_up), swiglu_plain(gate_up))


@pytest.mark.parametrize(
    ("heads", "width", "dtype"),
    [
        (1, 2, torch.float32),
        (4, 16, torch.bfloat16),
        (3, 6, torch.float16),
        (20, 512, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("per_row", [True, False])
def test_rotate_heads(dtype: torch.dtype, heads: int, width: int, per_row: bool) -> None:
    x = noise(2, 3, heads, width, dtype=dtype)
    angles = 10 * noise(*((2, 3) if per_row else (3,)), width // 2, dtype=torch.float32)
    got = rows.rotate_heads(x, angles.cos(), angles.sin())
    check(got, rotate(x.double(), angles.cos().double(), angles.sin().double()), dtype)


def test_rotate_heads_of_a_fused_projection() -> None:
    # Two query heads and one key head of 10 channels, of which the last 6 are turned; then values.
    fused = noise(2, 3, 50, dtype=torch.float32)
    x = fused[..., :30].unflatten(-1, (3, 10))[..., 4:]
    angles = noise(3, 3, dtype=torch.float32)
    got = rows.rotate_heads(x, angles.cos(), angles.sin())
    assert got.is_contiguous()
    torch.testing.assert_close(got, rotate(x, angles.cos(), angles.sin()))


def test_no_rows() -> None:
    empty, weight = torch.empty(0, 8, device=DEVICE), torch.ones(8, device=DEVICE)
    assert rows.add_norm(empty, empty, weight, EPS)[1].shape == (0, 8)
    assert rows.swiglu(empty).shape == (0, 4)
    heads, table = torch.empty(0, 3, 2, 4, device=DEVICE), torch.ones(3, 2, device=DEVICE)
    assert rows.rotate_heads(heads, table, table).shape == (0, 3, 2, 4)


@pytest.mark.parametrize("block", [1, 64, 1024, 4096, 16384])
def test_warps_are_a_power_of_two_a_program_may_have(block: int) -> None:
    warps = rows.warps_of(block)
    assert warps in (1, 2, 4, 8, 16)
    assert warps == 1 or block >= 32 * warps


@shapes
def test_relative_change(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    after, before = noise(*shape, dtype=dtype), noise(*shape, dtype=dtype)
    got = rows.relative_change(after, before, TINY)
    torch.testing.assert_close(got.double(), relative_change_plain(after.double(), before.double()),
                               rtol=1e-5, atol=0.0)  # fmt: skip
    still = torch.zeros_like(after)
    assert (rows.relative_change(still, still, TINY) == 0).all()
