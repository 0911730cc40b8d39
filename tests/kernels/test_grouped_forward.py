"""Each forward matmul of the experts against one expert at a time in float64."""

import pytest
import torch
from torch.nn import functional as F

from open_mythos.kernels.grouped_forward import expert_rows, sum_rows, up_rows
from open_mythos.kernels.grouped_tiles import ExpertPlan


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def near(got, want):
    assert got.shape == want.shape
    assert (got.double().cpu() - want).norm() <= 1e-5 * want.norm()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("counts", [[33, 0, 5], [0, 1], [7]])
def test_each_row_meets_its_experts_matrix(counts, transposed):
    rows = torch.randn(sum(counts), 48)
    matrices = torch.randn(len(counts), 48, 16)
    given = (matrices.transpose(1, 2) if transposed else matrices).contiguous().to(DEVICE)
    ends = torch.tensor(counts).cumsum(0).int().to(DEVICE)
    parts = rows.double().split(counts)
    want = torch.cat([part @ m.double() for part, m in zip(parts, matrices, strict=True)])
    near(expert_rows(rows.to(DEVICE), given, ends, transposed=transposed), want)


@pytest.mark.parametrize("save", [True, False])
def test_up_rows_gathers_multiplies_and_weighs(save):
    x, weights, gate_up = torch.randn(9, 32), torch.rand(9, 2), torch.randn(3, 32, 32)
    ids = torch.rand(9, 3).topk(2).indices
    order = ids.flatten().argsort(stable=True)
    ends = torch.bincount(ids.flatten(), minlength=3).cumsum(0).int()
    plan = ExpertPlan(order.int().to(DEVICE), order.argsort().to(DEVICE), ends.to(DEVICE))
    given = [t.to(DEVICE) for t in (x, weights, gate_up)]
    pre, hidden = up_rows(*given, plan, save=save)
    chosen = gate_up.double()[ids.flatten()[order]]
    want = torch.einsum("nd,ndf->nf", x.double()[order // 2], chosen)
    if save:
        near(pre, want)
    else:
        assert pre.shape == (0, 32)
    gate, up = want.chunk(2, dim=1)
    near(hidden, F.silu(gate) * up * weights.double().flatten()[order, None])


@pytest.mark.parametrize("dim", [16, 1040])
@pytest.mark.parametrize("extra", [True, False])
def test_sum_rows_is_a_sum_over_a_tokens_rows(dim, extra):
    rows, plus, inverse = torch.randn(15, dim), torch.randn(5, dim), torch.randperm(15)
    want = rows.double()[inverse].view(5, 3, dim).sum(1) + (plus.double() if extra else 0)
    given = plus.to(DEVICE) if extra else None
    near(sum_rows(rows.to(DEVICE), inverse.to(DEVICE), 3, given), want)
