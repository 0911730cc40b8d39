"""Routing and its counting sort against torch's own top-k and sort, and the gradient of weights."""

import pytest
import torch

from open_mythos.kernels import routes
from open_mythos.kernels.routes import route_many
from open_mythos.ops.routing import route_plain


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMITS = {torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 1e-6}  # of float32 weights


def draw(n, experts, dtype=torch.float32):
    logits, bias = torch.randn(n, experts).to(dtype), torch.randn(experts)
    return logits.to(DEVICE), bias.to(DEVICE)


def distance(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-30)).item()


@pytest.fixture(params=["one block", "many"])
def blocks(request, monkeypatch):
    """Whether all rows are one program's, or many blocks are summed in several chunks."""
    if request.param == "many":
        monkeypatch.setattr(routes, "SCORES", 16)
        monkeypatch.setattr(routes, "CHUNK", 4)


@pytest.mark.parametrize("dtype", list(LIMITS))
@pytest.mark.parametrize(
    ("n", "experts", "k"), [(1, 1, 1), (37, 5, 2), (64, 16, 4), (50, 20, 3), (9, 3, 3)]
)
def test_routes_and_plan_are_the_plain_ones(n, experts, k, dtype, blocks):
    logits, bias = draw(n, experts, dtype)
    ids, weights, order, inverse, ends, load = route_many(logits, bias, k)
    want = route_plain(logits, bias, k)
    assert torch.equal(ids, want.ids)
    exact = route_plain(logits.double(), bias.double(), k).weights
    assert distance(weights, exact) < LIMITS[dtype]
    assert torch.equal(order, want.plan.order)  # a stable sort has one answer
    assert torch.equal(inverse, want.plan.inverse)
    assert torch.equal(ends, want.plan.ends)
    assert torch.equal(load, want.load)
    for mine, other in ((order, want.plan.order), (ends, want.plan.ends), (load, want.load)):
        assert mine.dtype == other.dtype


def test_one_expert_takes_all(blocks):
    logits, bias = torch.zeros(33, 6, device=DEVICE), torch.zeros(6, device=DEVICE)
    bias[4] = 1.0
    ids, weights, order, inverse, ends, load = route_many(logits, bias, 2)
    assert ids.tolist() == [[4, 0]] * 33  # equal scores go to the lower expert
    assert torch.equal(weights, torch.full_like(weights, 0.5))
    assert load.tolist() == [33, 0, 0, 0, 33, 0]
    assert ends.tolist() == [33, 33, 33, 33, 66, 66]
    assert order.tolist() == [*range(1, 66, 2), *range(0, 66, 2)]
    assert torch.equal(inverse[order], torch.arange(66, device=DEVICE))


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, in the interpreter
@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), float("inf")])
def test_scores_that_are_no_numbers_still_give_a_whole_plan(bad, blocks):
    logits, bias = draw(11, 5)
    logits[3] = bad
    ids, _, order, inverse, ends, load = route_many(logits, bias, 2)
    assert all(len(set(row)) == 2 and set(row) <= set(range(5)) for row in ids.tolist())
    assert sorted(order.tolist()) == list(range(22))
    assert torch.equal(inverse[order], torch.arange(22, device=DEVICE))
    assert load.sum().item() == ends[-1].item() == 22


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_the_weights_is_the_plain_ones(dtype):
    logits, bias = draw(21, 6, dtype)
    exact = logits.double().requires_grad_()
    mine = logits.clone().requires_grad_()
    slope = torch.randn(21, 3, device=DEVICE)
    route_many(mine, bias, 3)[1].backward(slope)
    route_plain(exact, bias.double(), 3).weights.backward(slope.double())
    assert mine.grad.dtype == dtype
    assert distance(mine.grad, exact.grad) < (1e-5 if dtype == torch.float32 else 5e-3)


def test_the_op_is_registered_as_torch_wants_it():
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    logits, bias = draw(9, 4)
    torch.library.opcheck(route_many, (logits.requires_grad_(), bias, 2), test_utils=tests)


def test_no_rows_are_no_choices():
    logits, bias = draw(0, 4)
    ids, weights, order, inverse, ends, load = route_many(logits, bias, 2)
    assert ids.shape == weights.shape == (0, 2)
    assert order.shape == inverse.shape == (0,)
    assert ends.tolist() == load.tolist() == [0] * 4
