"""The cross-entropy kernel against its plain twin in float64."""

import pytest
import torch

from open_mythos.kernels.cross_entropy import score_rows
from open_mythos.ops.head_loss import head_loss, score_rows_plain


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMIT = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


def rows_of(
    seed: int, rows: int, vocab: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of very unequal rows, and targets of which every third is not scored."""
    torch.manual_seed(seed)
    logits = (3 * torch.randn(rows, vocab) + 5 * torch.randn(rows, 1)).to(DEVICE, dtype)
    targets = torch.randint(0, vocab, (rows,), device=DEVICE)
    targets[1::3] = -100
    return logits, targets


def close(got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype) -> bool:
    return bool((got.double() - want).norm() <= LIMIT[dtype] * want.norm())


@pytest.mark.parametrize(("seed", "z"), [(0, 0.0), (1, 0.2)])
@pytest.mark.parametrize(
    ("rows", "vocab", "block"), [(1, 37, 64), (7, 100, 16), (4, 513, 128), (2, 1, 8)]
)
@pytest.mark.parametrize("dtype", LIMIT)
def test_scores_and_slopes(
    seed: int, z: float, rows: int, vocab: int, block: int, dtype: torch.dtype
) -> None:
    logits, targets = rows_of(seed, rows, vocab, dtype)
    wide = logits.double()
    got = score_rows(
        logits, targets, z_loss=z, ignore_index=-100, gradient=True, block=block, warps=4
    )
    want = score_rows_plain(wide, targets, z_loss=z, ignore_index=-100, gradient=True)
    assert close(got, want, torch.float32)
    assert close(logits, wide, dtype)
    assert (logits[1::3] == 0).all()


def test_without_gradient_the_logits_stay() -> None:
    logits, targets = rows_of(0, 5, 70, torch.float32)
    kept = logits.clone()
    got = score_rows(logits, targets, z_loss=0.1, ignore_index=-100, gradient=False, block=32)
    want = score_rows_plain(kept.double(), targets, z_loss=0.1, ignore_index=-100, gradient=False)
    assert torch.equal(logits, kept)
    assert close(got, want, torch.float32)


def test_rows_of_a_wider_buffer_leave_its_other_columns_alone() -> None:
    buffer = torch.randn(4, 100, device=DEVICE)
    kept, targets = buffer.clone(), torch.tensor([0, -100, 69, 3], device=DEVICE)
    score_rows(buffer[:, :70], targets, z_loss=0.0, ignore_index=-100, gradient=True, block=32)
    assert torch.equal(buffer[:, 70:], kept[:, 70:])
    assert not torch.equal(buffer[:, :70], kept[:, :70])


def test_words_that_cannot_be_said() -> None:
    logits = torch.randn(1, 40, device=DEVICE)
    logits[:, :20] = float("-inf")  # the whole first block
    wide, targets = logits.double(), torch.tensor([25], device=DEVICE)
    got = score_rows(logits, targets, z_loss=0.0, ignore_index=-100, gradient=True, block=16)
    want = score_rows_plain(wide, targets, z_loss=0.0, ignore_index=-100, gradient=True)
    assert close(got, want, torch.float32)
    assert close(logits, wide, torch.float32)


@pytest.mark.parametrize("target", [-1, 40, 2**40])
def test_a_target_outside_the_vocabulary_is_nan_not_a_stray_read(target: int) -> None:
    logits, targets = torch.randn(1, 40, device=DEVICE), torch.tensor([target], device=DEVICE)
    got = score_rows(logits, targets, z_loss=0.0, ignore_index=-100, gradient=True)
    assert got[1].isnan().all()
    assert got[0].isfinite().all()


def test_no_rows() -> None:
    empty = torch.empty(0, 5, device=DEVICE)
    targets = torch.empty(0, dtype=torch.int64, device=DEVICE)
    got = score_rows(empty, targets, z_loss=0.0, ignore_index=-100, gradient=True)
    assert got.shape == (3, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("through", ["kernel", "device"])
def test_head_loss_through_the_kernel(
    dtype: torch.dtype, through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if through == "kernel":
        monkeypatch.setattr("open_mythos.ops.head_loss.scorer", lambda _: score_rows)
    torch.manual_seed(3)
    features = torch.randn(50, 24, device=DEVICE).to(dtype).requires_grad_()
    weight = torch.randn(70, 24, device=DEVICE).to(dtype).requires_grad_()
    targets = torch.randint(0, 70, (50,), device=DEVICE)
    targets[::7] = -100
    got = head_loss(features, weight, targets, z_loss=0.1, chunk=16, backend="chunked")
    wide = [features.detach().double(), weight.detach().double()]
    wide = [t.requires_grad_() for t in wide]
    want = head_loss(*wide, targets, z_loss=0.1, backend="reference")
    assert close(got.total.detach(), want.total.detach(), dtype)
    ours = torch.autograd.grad(got.total, (features, weight))
    theirs = torch.autograd.grad(want.total, wide)
    assert all(close(a, b, dtype) for a, b in zip(ours, theirs, strict=True))
    if dtype == torch.float32:
        assert got.correct.item() == want.correct.item()
