"""Batch refuses what no trainer could use; IGNORE is what PyTorch's loss skips."""

import pytest
import torch
from torch.nn import functional as F

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.errors import InputError, ShapeError


def test_ignored_targets_do_not_move_the_loss() -> None:
    logits = torch.randn(6, 5)
    targets = torch.tensor([1, IGNORE, 4, IGNORE, 0, 2])
    kept = targets != IGNORE
    assert torch.equal(
        F.cross_entropy(logits, targets), F.cross_entropy(logits[kept], targets[kept])
    )
    assert Batch(targets.clamp(min=0)[None], targets[None]).scored == int(kept.sum())


def test_to_keeps_values_and_depth() -> None:
    batch = Batch(torch.tensor([[1, 2]]), torch.tensor([[2, IGNORE]]), n_loops=3)
    moved = batch.to("meta")
    assert moved.ids.device.type == moved.targets.device.type == "meta"
    assert moved.n_loops == 3
    assert torch.equal(batch.to("cpu").ids, batch.ids)


@pytest.mark.parametrize(
    ("ids", "targets"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.int64)),
        (torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(ids: torch.Tensor, targets: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="one shape"):
        Batch(ids, targets)


def test_other_dtypes_and_no_loops_are_refused() -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(InputError, match="int32"):
        Batch(ids.int(), ids)
    with pytest.raises(InputError, match="n_loops is 0"):
        Batch(ids, ids, n_loops=0)


def test_scored_counts_the_positions_that_carry_a_target() -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64)
    assert Batch(ids, torch.full_like(ids, IGNORE)).scored == 0
    assert Batch(ids, torch.tensor([[IGNORE, 0, 1], [IGNORE, IGNORE, 2]])).scored == 3


def test_documents_travel_and_fit_the_rows() -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64)
    batch = Batch(ids, ids, documents=torch.tensor([[0, 0, 1], [0, 1, 2]]))
    moved = batch.to("meta").documents
    assert moved is not None
    assert moved.device.type == "meta"
    with pytest.raises(ShapeError, match=r"documents \(2, 2\)"):
        Batch(ids, ids, documents=ids[:, :2])
    with pytest.raises(InputError, match="documents are int64"):
        Batch(ids, ids, documents=ids.int())


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")  # a prototype
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_way_to_a_gpu_stops_nobody() -> None:
    """Pageable memory would make the copy wait for the device; the rows here stay pageable."""
    ids = torch.randint(1000, (8, 512))
    batch = Batch(ids, ids.roll(-1, 1), n_loops=2, level=3)
    batch.to("cuda")
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved = batch.to("cuda")
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert moved.ids.is_cuda
    assert moved.targets.is_cuda
    assert torch.equal(moved.ids.cpu(), batch.ids)
    assert torch.equal(moved.targets.cpu(), batch.targets)
    assert (moved.n_loops, moved.level) == (2, 3)
    assert not batch.ids.is_cuda
    assert moved.to("cuda").ids is moved.ids
