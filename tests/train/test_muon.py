"""Muon against torch's own, matrix by matrix, and against singular values."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from open_mythos.train import muon
from open_mythos.train.muon import Cut, Muon, newton_schulz, orthogonalise


def by_torch(start: Sequence[Tensor], grads: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Where torch.optim.Muon takes 2-D parameters by the gradients of one step after another."""
    own = [nn.Parameter(p.clone()) for p in start]
    optimizer = torch.optim.Muon(
        own, lr=0.1, weight_decay=0.3, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    for step in grads:
        for p, grad in zip(own, step, strict=True):
            p.grad = grad.clone()
        optimizer.step()
    return [p.detach() for p in own]


def by_ours(start: Tensor, grads: Sequence[Tensor], cut: Cut | None = None) -> Tensor:
    own = nn.Parameter(start.clone())
    group = {"params": [("p", own)], "cut": cut}
    optimizer = Muon([group], lr=0.1, weight_decay=0.3, momentum=0.9)
    for grad in grads:
        own.grad = grad.clone()
        optimizer.step()
    return own.detach()


def close(got: Tensor, want: Tensor, start: Tensor) -> None:
    """As near as bfloat16, in which both iterate, lets two orders of the same sums be."""
    assert (want - start).abs().max() > 0.1
    torch.testing.assert_close(got, want, rtol=0, atol=2e-3)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (16, 16), (1, 7)])
def test_a_matrix_goes_where_torchs_muon_takes_it(shape: tuple[int, int]) -> None:
    start, grads = torch.randn(shape), [torch.randn(shape) for _ in range(4)]
    [want] = by_torch([start], [[g] for g in grads])
    close(by_ours(start, grads), want, start)


@pytest.mark.parametrize("shape", [(5, 8, 12), (3, 12, 8), (1, 6, 6)])
def test_a_stack_goes_where_torchs_muon_takes_its_matrices_one_by_one(
    shape: tuple[int, int, int],
) -> None:
    start, grads = torch.randn(shape), [torch.randn(shape) for _ in range(4)]
    want = torch.stack(by_torch(list(start), [list(g) for g in grads]))
    close(by_ours(start, grads), want, start)


@pytest.mark.parametrize(
    ("shape", "cut"),
    [
        ((20, 9), Cut(0, (12, 4, 4))),
        ((7, 16), Cut(-1, (8, 8))),
        ((3, 7, 16), Cut(-1, (10, 6))),
    ],
)
def test_a_fused_tensor_goes_where_its_parts_would_go_alone(
    shape: tuple[int, ...], cut: Cut
) -> None:
    start, grads = torch.randn(shape), [torch.randn(shape) for _ in range(4)]

    def parts(tensor: Tensor) -> list[Tensor]:
        pieces = tensor.split(cut.widths, dim=cut.dim)
        return [m for piece in pieces for m in (piece if piece.ndim == 3 else [piece])]

    alone = by_torch(parts(start), [parts(g) for g in grads])
    got = by_ours(start, grads, cut)
    for mine, want, before in zip(parts(got), alone, parts(start), strict=True):
        close(mine, want, before)
    # Taken whole it would have gone elsewhere, or the cut would not matter.
    assert (by_ours(start, grads) - got).abs().max() > 0.02


def test_the_answer_has_the_singular_vectors_of_the_matrix_and_values_near_one() -> None:
    x = torch.randn(4, 10, 16)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    assert s.max() / s.min() > 3
    turned = newton_schulz(x.bfloat16()).float()
    inside = u.mT @ turned @ v.mT
    values = inside.diagonal(dim1=-2, dim2=-1)
    assert 0.6 < values.min() < values.max() < 1.3
    assert (inside - torch.diag_embed(values)).abs().max() < 0.05


def test_shapes_that_meet_in_one_batch_do_not_touch_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = [(2, 6, 9), (1, 9, 6), (1, 4, 4), (3, 6, 9)]
    given = [torch.randn(s).bfloat16() for s in shapes]
    alone = [torch.stack([orthogonalise([m[None]])[0][0] for m in stack]) for stack in given]
    for most in (muon.BATCH_NUMBERS, 6 * 9 * 2, 1):
        monkeypatch.setattr(muon, "BATCH_NUMBERS", most)
        for got, want in zip(orthogonalise(given), alone, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0.02)


@pytest.mark.parametrize("size", [2.0**-17, 1.0, 2.0**40])  # none of them rounds anything
def test_the_size_of_the_gradient_does_not_matter(size: float) -> None:
    start, grad = torch.randn(8, 6), torch.randn(8, 6)
    want = by_ours(start, [grad])
    torch.testing.assert_close(by_ours(start, [grad * size]), want, rtol=0, atol=1e-6)


def test_without_any_gradient_so_far_a_matrix_only_decays() -> None:
    start = torch.randn(5, 6)
    torch.testing.assert_close(by_ours(start, [torch.zeros(5, 6)]), start * (1 - 0.1 * 0.3))


SHARDED = """
import sys
import torch, torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from open_mythos.train.muon import Cut, Muon

rank, meeting = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
draw = torch.Generator().manual_seed(5)
cases = [
    ((10, 6), Cut(0, (5, 3, 2)), Shard(0)),
    ((6, 10), None, Shard(1)),
    ((9, 4), None, Shard(0)),
    ((8, 8), None, Replicate()),
    ((5, 6, 8), Cut(-1, (4, 4)), Shard(0)),
    ((1, 6, 8), None, Shard(0)),
    ((4, 6, 8), None, Shard(2)),
]
starts = [torch.randn(shape, generator=draw) for shape, _, _ in cases]
alone = [nn.Parameter(s.clone()) for s in starts]
spread = [
    nn.Parameter(distribute_tensor(s.clone(), mesh, [placement]))
    for s, (_, _, placement) in zip(starts, cases)
]


def optimizer(params):
    groups = [{"params": [p], "cut": cut} for p, (_, cut, _) in zip(params, cases)]
    return Muon(groups, lr=0.1, weight_decay=0.2)


one, two = optimizer(alone), optimizer(spread)
for step in range(3):
    for p, q, (shape, _, placement) in zip(alone, spread, cases):
        p.grad = torch.randn(shape, generator=draw)
        q.grad = distribute_tensor(p.grad, mesh, [placement])
    for half in (one, two):
        half.found_inf = torch.tensor(float(step == 1))
        half.step()
for p, q, start, case in zip(alone, spread, starts, cases):
    kept = two.state[q]["momentum_buffer"]
    assert isinstance(kept, DTensor) and kept.placements == q.placements, case
    torch.testing.assert_close(q.full_tensor(), p, rtol=0, atol=1e-3, msg=str(case))
    torch.testing.assert_close(kept.full_tensor(), one.state[p]["momentum_buffer"], msg=str(case))
    assert (p - start).abs().max() > 0.03, case
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_two_ranks_move_sharded_parameters_as_one_process_does(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SHARDED, str(rank), str(tmp_path / "meeting")],
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=90) for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
