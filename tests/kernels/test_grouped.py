import pytest
import torch
from torch.nn import functional as F

from open_mythos.errors import InputError
from open_mythos.kernels import grouped, grouped_tiles
from open_mythos.kernels.grouped import fused_experts
from open_mythos.kernels.grouped_tiles import ExpertPlan


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter cuts bfloat16 off instead of rounding it.
LIMITS = {torch.bfloat16: 1e-2 if DEVICE == "cuda" else 2e-2, torch.float16: 3e-3}


def draw(seed, n, k, experts, dim, width, dtype=torch.float32, ids=None):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=g)
    if ids is None:
        ids = torch.rand(n, experts, generator=g).topk(k, dim=1).indices
    weights = torch.rand(n, k, generator=g)
    gate_up = torch.randn(experts, dim, 2 * width, generator=g) * dim**-0.5
    down = torch.randn(experts, width, dim, generator=g) * width**-0.5
    d_out = torch.randn(n, dim, generator=g)
    tensors = [t.to(DEVICE, dtype) for t in (x, weights, gate_up, down, d_out)]
    return ids.to(DEVICE), *tensors


def plan_of(ids, experts, wide=False):
    """A stable sort of the choices, by torch's own means."""
    flat = ids.flatten()
    order = flat.argsort(stable=True)
    ends = torch.bincount(flat, minlength=experts).cumsum(0).int()
    inverse = order.argsort()
    return ExpertPlan(order.int(), inverse if wide else inverse.int(), ends)


def run(x, ids, weights, gate_up, down, extra=None):
    plan = plan_of(ids, gate_up.shape[0], wide=x.shape[0] % 2 == 1)
    return fused_experts(x, weights, gate_up, down, plan, extra)


def by_hand(x, ids, weights, gate_up, down):
    """A loop over the experts, each on all tokens, in the dtype it is given."""
    out = torch.zeros_like(x)
    for e in range(gate_up.shape[0]):
        share = (weights * (ids == e)).sum(1, keepdim=True)
        gate, up = (x @ gate_up[e]).chunk(2, dim=1)
        out = out + share * ((F.silu(gate) * up) @ down[e])
    return out


def distance(got, want):
    return ((got.double() - want).norm() / want.norm().clamp(min=1e-30)).item()


def check(ids, x, weights, gate_up, down, d_out, limit):
    """Output and the four gradients against the loop in float64."""
    leaves = [t.clone().requires_grad_() for t in (x, weights, gate_up, down)]
    exact = [t.double().clone().requires_grad_() for t in (x, weights, gate_up, down)]
    got = run(leaves[0], ids, *leaves[1:])
    want = by_hand(exact[0], ids, *exact[1:])
    assert got.dtype == x.dtype
    assert distance(got, want) < limit
    got.backward(d_out)
    want.backward(d_out.double())
    for mine, true in zip(leaves, exact, strict=True):
        assert mine.grad.dtype == mine.dtype
        assert distance(mine.grad, true.grad) < limit
    return leaves


@pytest.mark.parametrize(
    ("n", "k", "experts", "dim", "width"),
    [
        (37, 2, 3, 48, 16),  # no size is a multiple of a block, E no power of two
        (1, 1, 3, 16, 16),  # two experts without tokens
        (34, 1, 1, 16, 48),
        (5, 3, 3, 32, 32),  # every token visits every expert
    ],
)
def test_output_and_gradients_match_a_float64_loop(n, k, experts, dim, width):
    check(*draw(n, n, k, experts, dim, width), limit=1e-5)


def test_bulk_copies_give_the_same(monkeypatch):
    """Blocks that the copy engine reads past an expert's end must not reach the result."""
    if DEVICE == "cuda" and torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("this GPU has no bulk tensor copies")
    tile = grouped_tiles.WIDE_TILE._replace(bulk=True)
    monkeypatch.setattr(grouped_tiles, "WIDE_TILE", tile)
    check(*draw(23, 17, 2, 3, 48, 16), limit=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(dtype):
    check(*draw(7, 19, 2, 3, 80, 48, dtype), limit=LIMITS[dtype])


def test_one_expert_takes_all_and_the_others_get_exact_zeros():
    ids = torch.full((35, 1), 2)
    leaves = check(*draw(3, 35, 1, 4, 16, 16, ids=ids), limit=1e-5)
    others = [0, 1, 3]
    for leaf in leaves[2:]:
        assert leaf.grad[others].eq(0).all()
        assert leaf.grad[2].ne(0).any()


def test_a_token_that_names_an_expert_twice_counts_it_twice():
    ids = torch.tensor([[1, 1], [0, 1], [1, 1]])
    check(*draw(5, 3, 2, 2, 16, 16, ids=ids), limit=1e-5)


def test_extra_is_added_and_gets_the_output_gradient():
    ids, x, weights, gate_up, down, d_out = draw(11, 9, 2, 3, 16, 16)
    extra = torch.randn_like(x).requires_grad_()
    plain = run(x, ids, weights, gate_up, down)
    both = run(x, ids, weights, gate_up, down, extra=extra)
    torch.testing.assert_close(both, plain + extra)
    both.backward(d_out)
    assert torch.equal(extra.grad, d_out)


def test_no_tokens():
    ids, x, weights, gate_up, down, d_out = draw(2, 0, 2, 3, 16, 16)
    down.requires_grad_()
    out = run(x, ids, weights, gate_up, down)
    assert out.shape == (0, 16)
    out.backward(d_out)
    assert down.grad.eq(0).all()


def test_the_same_twice_is_the_same_bit_by_bit():
    ids, x, weights, gate_up, down, d_out = draw(13, 9, 2, 3, 16, 16, torch.bfloat16)
    runs = []
    for _ in range(2):
        leaves = [t.clone().requires_grad_() for t in (x, weights, gate_up, down)]
        out = run(leaves[0], ids, *leaves[1:])
        out.backward(d_out)
        runs.append([out, *(leaf.grad for leaf in leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize(("dim", "width"), [(24, 16), (16, 20)])
def test_unaligned_widths_are_refused(dim, width):
    ids, x, weights, gate_up, down, _ = draw(1, 4, 1, 2, dim, width)
    with pytest.raises(InputError, match="multiples of 16"):
        run(x, ids, weights, gate_up, down)


def test_ops_are_registered_as_torch_wants_them():
    ids, x, weights, gate_up, down, d_out = draw(17, 6, 2, 3, 16, 16)
    plan = plan_of(ids, 3)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    leaves = [t.requires_grad_() for t in (x, weights, gate_up, down)]
    torch.library.opcheck(grouped.experts_forward, (*leaves, *plan, None, True), test_utils=tests)
    _, pre, hidden = grouped.experts_forward(*leaves, *plan, None, True)
    still = [t.detach() for t in (d_out, *leaves, *plan, pre, hidden)]
    torch.library.opcheck(grouped.experts_backward, still, test_utils=tests)


def test_traces_into_one_graph_with_gradients():
    ids, x, weights, gate_up, down, d_out = draw(19, 8, 2, 3, 16, 16)
    leaves = [t.requires_grad_() for t in (x, weights, gate_up, down)]
    plan = plan_of(ids, 3)
    compiled = torch.compile(fused_experts, backend="aot_eager", fullgraph=True)
    want = torch.autograd.grad(fused_experts(*leaves, plan), leaves, d_out)
    got = torch.autograd.grad(compiled(*leaves, plan), leaves, d_out)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_float64_is_refused():
    ids, x, weights, gate_up, down, _ = draw(1, 4, 1, 2, 16, 16)
    with pytest.raises(InputError, match="float64"):
        run(x.double(), ids, weights, gate_up, down)
