"""Experts in blocks: the definition's output and gradients, and blocks that hold every choice."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from open_mythos.ops import blocks
from open_mythos.ops.blocks import STEP, WASTE, block_experts, lay_out, most_rows
from open_mythos.ops.experts import Plan, plan_experts
from open_mythos.ops.reference import experts_reference


LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2}
Leaves = list[Tensor]


def problem(n: int, experts: int, k: int, skew: float, dtype: torch.dtype) -> tuple[Leaves, Tensor]:
    """Leaves x, weights, gate_up, down of a routing that likes expert 0 by `skew`; its ids."""
    scores = torch.randn(n, experts)
    scores[:, 0] += skew
    ids = scores.topk(k, dim=-1).indices
    dim, hidden = 16, 12
    drawn = (
        torch.randn(n, dim),
        torch.rand(n, k),
        torch.randn(experts, dim, 2 * hidden) * dim**-0.5,
        torch.randn(experts, hidden, dim) * hidden**-0.5,
    )
    return [t.to(dtype).requires_grad_() for t in drawn], ids


def run(leaves: Leaves, plan: Plan) -> Tensor:
    return block_experts(*leaves, plan.order, plan.inverse, plan.ends)


def distance(got: Tensor, want: Tensor) -> float:
    return float((got.detach().double() - want.detach()).norm() / want.detach().norm())


@pytest.mark.parametrize("dtype", list(LIMITS))
@pytest.mark.parametrize(
    ("n", "experts", "k", "skew"),
    [
        (96, 3, 2, 0.0),  # blocks of one height in 16 bits
        (70, 5, 1, 9.0),  # one expert has all, the others nothing
        (41, 4, 2, 2.0),
        (1, 3, 3, 0.0),
    ],
)
def test_output_and_gradients_are_the_definitions(
    n: int, experts: int, k: int, skew: float, dtype: torch.dtype
) -> None:
    leaves, ids = problem(n, experts, k, skew, dtype)
    limit = LIMITS[dtype] * (4 if n == 1 else 1)  # the parts of one row may nearly cancel
    exact = [t.detach().double().requires_grad_() for t in leaves]
    got = run(leaves, plan_experts(ids, experts))
    want = experts_reference(exact[0], ids, *exact[1:])
    assert got.dtype == dtype
    assert distance(got, want) < limit
    # Along the output, to which weights are then summed up: what cancels is nothing but rounding.
    up = (torch.randn_like(want) + 8 * F.normalize(want.detach(), dim=-1)).to(dtype)
    ours = torch.autograd.grad(got, leaves, up)
    theirs = torch.autograd.grad(want, exact, up.double())
    for mine, true in zip(ours, theirs, strict=True):
        assert mine.dtype == dtype
        assert distance(mine, true) < limit
        assert mine[true == 0].eq(0).all()  # experts without tokens: exact zeros
    with torch.no_grad():
        assert torch.equal(run(leaves, plan_experts(ids, experts)), got)


@given(
    n=st.integers(1, 90),
    experts=st.integers(1, 9),
    k=st.integers(1, 3),
    skew=st.sampled_from([0.0, 1.0, 9.0]),
    dtype=st.sampled_from(list(LIMITS)),
)
def test_every_choice_has_a_row_in_its_experts_block(
    n: int, experts: int, k: int, skew: float, dtype: torch.dtype
) -> None:
    _, ids = problem(n, experts, min(k, experts), skew, dtype)
    plan = plan_experts(ids, experts)
    laid = lay_out(plan.order, plan.inverse, plan.ends, plan.k, dtype)
    rows = laid.source.shape[0]
    for place, expert, choice in zip(
        laid.place.flatten().tolist(), ids.flatten().tolist(), range(ids.numel()), strict=True
    ):
        first, end = laid.bounds[expert]
        assert first <= place < end
        assert laid.source[place] == choice
    assert (laid.source < ids.numel()).sum() == ids.numel()  # what is left over says it is empty
    assert [first for first, _ in laid.bounds] == [0, *(end for _, end in laid.bounds[:-1])]
    assert rows == laid.bounds[-1][1] <= most_rows(ids.numel(), experts, dtype)
    heights = {end - first for first, end in laid.bounds}
    assert all(height % STEP == 0 for height in heights) or dtype == torch.float32
    if laid.height:
        assert heights == {laid.height}
        assert rows <= WASTE * ids.numel()


def test_float32_rows_are_not_filled_up() -> None:
    _, ids = problem(50, 4, 2, 1.0, torch.float32)
    plan = plan_experts(ids, 4)
    laid = lay_out(plan.order, plan.inverse, plan.ends, 2, torch.float32)
    assert laid.height == 0
    assert torch.equal(laid.source, plan.order)


def test_values_left_over_from_other_tensors_have_no_influence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is not written is never read: fresh memory is NaN here, and nothing changes."""
    leaves, ids = problem(70, 5, 2, 2.0, torch.bfloat16)
    plan = plan_experts(ids, 5)
    up = torch.randn(70, 16).bfloat16()
    calm = run(leaves, plan)
    before = [calm, *torch.autograd.grad(calm, leaves, up)]
    fresh = Tensor.new_empty

    def soiled(self: Tensor, *args: object, **kwargs: object) -> Tensor:
        found: Tensor = fresh(self, *args, **kwargs)  # type: ignore[arg-type]
        return found.fill_(float("nan"))

    monkeypatch.setattr(Tensor, "new_empty", soiled)
    monkeypatch.setattr(torch, "empty_like", lambda t: torch.full_like(t, float("nan")))
    out = run(leaves, plan)
    after = [out, *torch.autograd.grad(out, leaves, up)]
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one, two)


# torch 2.13, inside its compiler.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("how", ["compiled", "recomputed"])
def test_compiled_and_recomputed_it_is_one_op_and_the_same(how: str) -> None:
    leaves, ids = problem(60, 4, 2, 1.0, torch.float32)
    plan = plan_experts(ids, 4)

    def call(*given: Tensor) -> Tensor:
        return run([given[0] * 2, *given[1:]], plan)

    plain = call(*leaves)
    if how == "compiled":
        torch._dynamo.reset()
        other = torch.compile(call, backend="aot_eager", fullgraph=True)(*leaves)
    else:
        other = checkpoint(call, *leaves, use_reentrant=False)
    torch.testing.assert_close(other, plain)
    up = torch.randn_like(plain)
    pairs = zip(
        torch.autograd.grad(other, leaves, up), torch.autograd.grad(plain, leaves, up), strict=True
    )
    for mine, true in pairs:
        torch.testing.assert_close(mine, true)


def test_ops_are_registered_as_torch_wants_them() -> None:
    leaves, ids = problem(9, 3, 2, 0.0, torch.float32)
    plan = plan_experts(ids, 3)
    where = (plan.order, plan.inverse, plan.ends)
    tests = ("test_schema", "test_faketensor")
    given = [t.detach() for t in leaves]
    torch.library.opcheck(blocks.blocks_forward, (*given, *where, True), test_utils=tests)
    _, kept = blocks.blocks_forward(*given, *where, True)
    back = (torch.randn(9, 16), *given, *where, kept)
    torch.library.opcheck(blocks.blocks_backward, back, test_utils=tests)
