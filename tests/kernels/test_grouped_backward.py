"""Each backward matmul of the experts against autograd and sums of outer products, in float64."""

import pytest
import torch
from torch.nn import functional as F

from open_mythos.kernels.grouped_backward import hidden_grad, weight_grad
from open_mythos.kernels.grouped_tiles import ExpertPlan


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def near(got, want):
    assert got.shape == want.shape
    assert (got.double().cpu() - want).norm() <= 1e-5 * want.norm()


def routed(tokens, k, experts, used):
    """Expert of each row, flat choice of each row, and the plan; experts from `used` on idle."""
    ids = torch.rand(tokens, used).topk(k).indices.flatten()
    order = ids.argsort(stable=True)
    ends = torch.bincount(ids, minlength=experts).cumsum(0).int()
    plan = ExpertPlan(order.int().to(DEVICE), order.argsort().to(DEVICE), ends.to(DEVICE))
    return ids[order], order, plan


@pytest.mark.parametrize("gather_first", [True, False])
@pytest.mark.parametrize("tokens", [2, 37])
def test_weight_grad_is_a_sum_of_outer_products_per_expert(tokens, gather_first):
    expert, order, plan = routed(tokens, 2, 4, 3)
    a = torch.randn(tokens if gather_first else 2 * tokens, 16)
    b = torch.randn(2 * tokens if gather_first else tokens, 48)
    left, right = a.double(), b.double()
    left, right = (left[order // 2], right) if gather_first else (left, right[order // 2])
    want = torch.zeros(4, 16, 48, dtype=torch.float64)
    want.index_add_(0, expert, left[:, :, None] * right[:, None, :])
    got = weight_grad(a.to(DEVICE), b.to(DEVICE), plan, 2, gather_first=gather_first)
    near(got, want)
    assert got[3].eq(0).all()


@pytest.mark.parametrize("tokens", [1, 19])
def test_hidden_grad_is_autograds(tokens):
    expert, order, plan = routed(tokens, 2, 3, 3)
    d_out, down = torch.randn(tokens, 32), torch.randn(3, 48, 32)
    pre, weights = torch.randn(2 * tokens, 96), torch.rand(tokens, 2)
    exact = pre.double().requires_grad_()
    shares = weights.double().requires_grad_()
    gate, up = exact.chunk(2, dim=1)
    hidden = F.silu(gate) * up * shares.flatten()[order, None]
    out = torch.einsum("nf,nfd->nd", hidden, down.double()[expert])
    wants = torch.autograd.grad(out, (exact, shares), d_out.double()[order // 2])
    gots = hidden_grad(*(t.to(DEVICE) for t in (d_out, weights, down, pre)), plan)
    for got, want in zip(gots, wants, strict=True):
        near(got, want)
