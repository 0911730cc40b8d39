"""head_loss against torch's own cross entropy in float64, and against its definition."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from open_mythos.errors import InputError, ShapeError
from open_mythos.ops.head_loss import (
    CHUNK_BYTES,
    HeadLoss,
    default_chunk,
    head_loss,
    score_rows_plain,
)


BACKENDS = ["chunked", "dense", "reference"]


def inputs(
    rows: int = 11, vocab: int = 7, dim: int = 5, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, weight, and targets of which every third is not scored."""
    features, weight = torch.randn(rows, dim).to(dtype), torch.randn(vocab, dim).to(dtype)
    targets = torch.randint(0, vocab, (rows,))
    targets[::3] = -100
    return features.requires_grad_(), weight.requires_grad_(), targets


def expected(
    features: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, z: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Total, cross entropy, z-loss and hits over the scored rows, by boolean indexing."""
    scored = targets != -100
    logits = (features.double() @ weight.double().T)[scored]
    ce = F.cross_entropy(logits, targets[scored])
    square = torch.logsumexp(logits, -1).square().mean()
    return ce + z * square, ce, square, int((logits.argmax(-1) == targets[scored]).sum())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("z", [0.0, 0.3])
@pytest.mark.parametrize("chunk", [None, 1, 4, 11, 100])
def test_loss_and_gradients(backend: str, z: float, chunk: int | None) -> None:
    features, weight, targets = inputs()
    got = head_loss(features, weight, targets, z_loss=z, chunk=chunk, backend=backend)
    total, ce, square, hits = expected(features, weight, targets, z)
    torch.testing.assert_close(got.total, total)
    torch.testing.assert_close(got.cross_entropy, ce.detach())
    if z:
        torch.testing.assert_close(got.z_loss, square.detach())
    else:
        assert got.z_loss is None
    assert got.correct.item() == hits
    assert got.n_targets.item() == int((targets != -100).sum())
    ours = torch.autograd.grad(3 * got.total, (features, weight))
    theirs = torch.autograd.grad(3 * total, (features, weight))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("z", [0.0, 0.3])
@pytest.mark.parametrize("chunk", [None, 4])
def test_weights_of_rows(backend: str, z: float, chunk: int | None) -> None:
    """Each row's cost by its weight, which learns too; the mean is over the scored rows."""
    features, weight, targets = inputs()
    by = torch.rand(11, dtype=torch.float64).requires_grad_()
    got = head_loss(features, weight, targets, z_loss=z, chunk=chunk, backend=backend, weights=by)
    scored = targets != -100
    logits = features @ weight.T
    cost = F.cross_entropy(logits[scored], targets[scored], reduction="none")
    square = logits[scored].logsumexp(-1).square()
    total = ((cost + z * square) * by[scored]).sum() / scored.sum()
    torch.testing.assert_close(got.total, total)
    torch.testing.assert_close(got.cross_entropy, (cost * by[scored]).sum() / scored.sum())
    ours = torch.autograd.grad(3 * got.total, (features, weight, by))
    theirs = torch.autograd.grad(3 * total, (features, weight, by))
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(ShapeError, match=r"with weights \(N,\) \(10,\)"):
        head_loss(features, weight, targets, weights=by[1:])


@pytest.mark.parametrize("z", [0.0, 0.3])
def test_gradcheck(z: float) -> None:
    features, weight, targets = inputs(rows=5)
    assert torch.autograd.gradcheck(
        lambda x, w: head_loss(x, w, targets, z_loss=z, chunk=2, backend="chunked").total,
        (features, weight),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("chunk", [None, 16])
def test_narrow_dtypes_follow_float64(dtype: torch.dtype, chunk: int | None) -> None:
    features, weight, targets = inputs(rows=60, vocab=50, dim=32, dtype=dtype)
    got = head_loss(features, weight, targets, z_loss=1e-2, chunk=chunk)
    total, *_ = expected(features, weight, targets, 1e-2)
    assert got.total.dtype == torch.float32
    limit = 1e-5 if dtype == torch.float32 else 1e-2
    assert abs(got.total.item() - total.item()) < limit * total.item()
    ours = torch.autograd.grad(got.total, (features, weight))
    theirs = torch.autograd.grad(total, (features, weight))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b.double()).norm() < limit * b.double().norm()


def test_half_gradients_do_not_underflow() -> None:
    # 1/N = 2^-15 times probabilities of 2^-10: below float16's smallest number, 6e-8.
    rows, vocab = 2**15, 1024
    features = torch.ones(rows, 1, dtype=torch.float16, requires_grad=True)
    weight = torch.zeros(vocab, 1, dtype=torch.float16, requires_grad=True)
    targets = torch.zeros(rows, dtype=torch.int64)
    head_loss(features, weight, targets).total.backward()
    want = torch.full((vocab, 1), 1 / vocab)
    want[0] -= 1.0
    torch.testing.assert_close(weight.grad.float(), want, rtol=2e-3, atol=0)


def test_a_float32_weight_serves_16_bit_features() -> None:
    features, weight, targets = inputs(dtype=torch.float32)
    narrow = features.detach().bfloat16().requires_grad_()
    head_loss(narrow, weight, targets).total.backward()
    assert narrow.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32
    total, *_ = expected(narrow, weight.bfloat16(), targets, 0.0)
    want = torch.autograd.grad(total, weight)[0]
    assert (weight.grad - want).norm() < 1e-2 * want.norm()


def test_an_autocast_around_the_call_changes_nothing() -> None:
    features, weight, targets = inputs(dtype=torch.float32)
    plain = head_loss(features, weight, targets).total
    with torch.autocast("cpu", torch.bfloat16):
        inside = head_loss(features, weight, targets).total
    assert inside.item() == plain.item()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_scored_costs_nothing(backend: str) -> None:
    features, weight, targets = inputs()
    got = head_loss(features, weight, torch.full_like(targets, -100), z_loss=0.1, backend=backend)
    assert got.total.item() == got.cross_entropy.item() == got.z_loss.item() == 0.0
    assert got.correct.item() == got.n_targets.item() == 0
    for slope in torch.autograd.grad(got.total, (features, weight)):
        assert (slope == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows(backend: str) -> None:
    features, weight, targets = inputs(rows=0)
    got = head_loss(features, weight, targets, backend=backend)
    assert got.total.item() == 0.0
    got.total.backward()
    assert (weight.grad == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_are_not_scored_may_hold_anything(backend: str) -> None:
    features, weight, targets = inputs()
    want = head_loss(features, weight, targets, z_loss=0.1).total
    loud = features.detach().clone()
    loud[::3] = 1e4
    got = head_loss(loud.requires_grad_(), weight, targets, z_loss=0.1, backend=backend)
    torch.testing.assert_close(got.total, want)
    (slope,) = torch.autograd.grad(got.total, loud)
    assert (slope[::3] == 0).all()


def test_another_ignore_index() -> None:
    features, weight, targets = inputs()
    zero = targets.clamp(min=0)
    got = head_loss(features, weight, zero, ignore_index=0)
    want = head_loss(features, weight, torch.where(zero == 0, -100, zero))
    assert got.total.item() == want.total.item()
    assert got.n_targets.item() == want.n_targets.item()


def test_ties_count_as_hits() -> None:
    features, weight, targets = inputs()
    got = head_loss(features, weight * 0, targets)
    assert got.correct.item() == got.n_targets.item()
    assert got.cross_entropy.item() == pytest.approx(math.log(7))


def test_features_may_be_used_twice_and_backward_run_twice() -> None:
    features, weight, targets = inputs()
    got = head_loss(features * 1.0, weight, targets, chunk=3)
    both = got.total + features.square().sum()
    (first,) = torch.autograd.grad(both, features, retain_graph=True)
    (second,) = torch.autograd.grad(both, features)
    total, *_ = expected(features, weight, targets, 0.0)
    (want,) = torch.autograd.grad(total, features)
    torch.testing.assert_close(first, want + 2 * features.detach())
    assert torch.equal(first, second)


@pytest.mark.parametrize("learner", ["features", "weight"])
def test_one_gradient_alone(learner: str) -> None:
    features, weight, targets = inputs()
    want = torch.autograd.grad(expected(features, weight, targets, 0.0)[0], (features, weight))
    still = weight if learner == "features" else features
    still.requires_grad_(False)
    head_loss(features, weight, targets, chunk=4).total.backward()
    moving = features if learner == "features" else weight
    assert still.grad is None
    torch.testing.assert_close(moving.grad, want[0 if learner == "features" else 1])


class Matmuls(TorchDispatchMode):
    """Counts matrix products, and notes the largest tensor that any op returns."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.count += "mm" in str(func)
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.numel())
        return out


def test_no_gradient_no_gradient_work_and_never_all_logits() -> None:
    features, weight, targets = inputs(rows=64, vocab=50)
    with Matmuls() as learning:
        loss = head_loss(features, weight, targets, chunk=16)
    assert learning.count == 3 * 4
    assert learning.largest < 64 * 50
    with Matmuls() as backward:
        loss.total.backward()
    assert backward.count == 0
    with torch.no_grad(), Matmuls() as reading:
        quiet = head_loss(features, weight, targets, chunk=16)
    assert reading.count == 4
    assert quiet.total.item() == loss.total.item()
    assert not quiet.total.requires_grad


def test_only_the_total_carries_a_gradient() -> None:
    features, weight, targets = inputs()
    for backend in BACKENDS:
        got = head_loss(features, weight, targets, z_loss=0.1, backend=backend)
        assert got.total.requires_grad
        parts = (got.cross_entropy, got.z_loss, got.correct, got.n_targets)
        assert not any(part.requires_grad for part in parts)


def test_the_native_backend() -> None:
    features, weight, targets = inputs(dtype=torch.float32)
    if not hasattr(F, "linear_cross_entropy"):
        with pytest.raises(InputError, match="is not in torch"):
            head_loss(features, weight, targets, backend="torch")
        return
    got = head_loss(features, weight, targets, backend="torch")
    want = head_loss(features, weight, targets, backend="reference")
    assert isinstance(got, HeadLoss)
    assert got.correct is None
    torch.testing.assert_close(got.total, want.total)
    ours = torch.autograd.grad(got.total, (features, weight))
    torch.testing.assert_close(ours, torch.autograd.grad(want.total, (features, weight)))
    nothing = head_loss(features, weight, torch.full_like(targets, -100), backend="torch")
    assert nothing.total.item() == 0.0
    with pytest.raises(InputError, match="no z-loss"):
        head_loss(features, weight, targets, z_loss=0.1, backend="torch")


def test_plain_rows_write_slopes_only_when_asked() -> None:
    logits, targets = torch.randn(4, 6), torch.tensor([0, -100, 5, 2])
    kept = logits.clone()
    score_rows_plain(logits, targets, z_loss=0.1, ignore_index=-100, gradient=False)
    assert torch.equal(logits, kept)
    score_rows_plain(logits, targets, z_loss=0.0, ignore_index=-100, gradient=True)
    want = kept.softmax(-1) - F.one_hot(targets.clamp(min=0), 6)
    want[1] = 0
    torch.testing.assert_close(logits, want)


@pytest.mark.parametrize("vocab", [1, 37, 32000, 50257, 131072, 262144, 2**22])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_default_chunk_fills_its_budget(vocab: int, dtype: torch.dtype) -> None:
    rows = default_chunk(vocab, dtype)
    size = rows * vocab * dtype.itemsize
    assert rows == 1024 or (CHUNK_BYTES / 2 < size <= CHUNK_BYTES)
    assert rows >= 1024


def test_refusals() -> None:
    features, weight, targets = inputs()
    with pytest.raises(ShapeError, match="takes features"):
        head_loss(features, weight.T, targets)
    with pytest.raises(ShapeError, match="takes features"):
        head_loss(features, weight, targets[1:])
    with pytest.raises(InputError, match="int64"):
        head_loss(features, weight, targets.int())
    with pytest.raises(InputError, match="chunk is 0"):
        head_loss(features, weight, targets, chunk=0)
    with pytest.raises(InputError, match="backend is one of"):
        head_loss(features, weight, targets, backend="fast")  # type: ignore[arg-type]
    with pytest.raises((IndexError, RuntimeError)):
        head_loss(features, weight, targets.clamp(min=0) + 7)
