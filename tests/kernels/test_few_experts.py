import pytest
import torch

from open_mythos.kernels.few_experts import (
    DIRECT_ROWS,
    few_experts,
    few_experts_direct,
    few_experts_tiled,
)
from open_mythos.ops.reference import experts_reference
from open_mythos.ops.routing import route_plain


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter cuts bfloat16 off instead of rounding it.
LIMITS = {
    torch.float32: 1e-5,
    torch.float16: 3e-3,
    torch.bfloat16: 1e-2 if DEVICE == "cuda" else 2e-2,
}


def draw(seed, n, experts, dim=24, width=20, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=g)
    logits = torch.randn(n, experts, generator=g)
    bias = torch.randn(experts, generator=g)
    gate_up = torch.randn(experts, dim, 2 * width, generator=g) * dim**-0.5
    down = torch.randn(experts, width, dim, generator=g) * width**-0.5
    plus = torch.randn(n, dim, generator=g)
    x, logits, gate_up, down, plus = (t.to(DEVICE, dtype) for t in (x, logits, gate_up, down, plus))
    return x, logits, bias.to(DEVICE), gate_up, down, plus


def twin(x, logits, bias, k, gate_up, down, plus=None):
    """The plain definition in float64, on the values the kernel is given."""
    routing = route_plain(logits.double(), bias.double(), k)
    wide = (t.double() for t in (gate_up, down))
    out = experts_reference(x.double(), routing.ids, routing.weights, *wide)
    return (out if plus is None else out + plus.double()), routing


def distance(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


@pytest.mark.parametrize(
    ("run", "n", "experts", "k"),
    [
        (few_experts_direct, 1, 8, 3),
        (few_experts_direct, 3, 5, 5),
        (few_experts_direct, 17, 7, 1),
        (few_experts_tiled, 1, 8, 3),
        (few_experts_tiled, 3, 5, 5),
        (few_experts_tiled, 17, 7, 1),
        (few_experts_tiled, 64, 6, 2),
    ],
)
def test_float32_output_ids_and_load(run, n, experts, k):
    x, logits, bias, gate_up, down, plus = draw(n + k, n, experts)
    out, ids, load = run(x, logits, bias, k, gate_up, down, plus)
    want, routing = twin(x, logits, bias, k, gate_up, down, plus)
    assert distance(out, want) < LIMITS[torch.float32]
    assert torch.equal(ids, routing.ids)
    assert torch.equal(load, routing.load)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("run", [few_experts_direct, few_experts_tiled])
def test_sixteen_bits(run, dtype):
    x, logits, bias, gate_up, down, _ = draw(7, 4, 12, 40, 72, dtype)
    out, _, _ = run(x, logits, bias, 2, gate_up, down)
    want, _ = twin(x, logits, bias, 2, gate_up, down)
    assert out.dtype == dtype
    assert distance(out, want) < LIMITS[dtype]


@pytest.mark.parametrize("run", [few_experts_direct, few_experts_tiled])
def test_all_rows_to_one_expert(run):
    x, logits, bias, gate_up, down, _ = draw(1, 35, 4, 8, 16)
    bias[2] = 100.0  # more than two tiles of it, and none of the others
    out, ids, load = run(x, logits, bias, 1, gate_up, down)
    assert (ids == 2).all()
    assert load.tolist() == [0, 0, 35, 0]
    assert distance(out, twin(x, logits, bias, 1, gate_up, down)[0]) < LIMITS[torch.float32]


def test_both_ways_pick_the_same_and_ties_go_to_the_lower_expert():
    x, logits, bias, gate_up, down, _ = draw(2, 4, 9)
    logits[:] = 0.5
    bias[:] = 0.0
    bias[7] = 1.0
    ways = (few_experts_direct, few_experts_tiled)
    a, b = (run(x, logits, bias, 3, gate_up, down) for run in ways)
    assert a[1].tolist() == b[1].tolist() == [[7, 0, 1]] * 4
    assert distance(a[0], b[0].double()) < LIMITS[torch.float32]


@pytest.mark.parametrize("n", [1, 2])
def test_the_way_is_picked_by_rows(n):
    x, logits, bias, gate_up, down, plus = draw(n, n, 5)
    way = few_experts_direct if n <= DIRECT_ROWS else few_experts_tiled
    got, want = (run(x, logits, bias, 2, gate_up, down, plus) for run in (few_experts, way))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.skipif(DEVICE == "cpu", reason="CUDA graphs")
@pytest.mark.parametrize("n", [1, 8, 64])
def test_a_captured_graph_follows_its_inputs(n):
    args = draw(5, n, 32, 64, 64, torch.bfloat16)
    other = draw(6, n, 32, 64, 64, torch.bfloat16)
    x, logits, bias, gate_up, down, plus = args
    few_experts(x, logits, bias, 4, gate_up, down, plus)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, ids, load = few_experts(x, logits, bias, 4, gate_up, down, plus)
    for target, source in zip(args, other, strict=True):
        target.copy_(source)
    graph.replay()
    want, routing = twin(x, logits, bias, 4, gate_up, down, plus)
    assert distance(out, want) < LIMITS[torch.bfloat16]
    assert torch.equal(ids, routing.ids)
    assert torch.equal(load, routing.load)
    first = out.clone()
    graph.replay()
    assert torch.equal(first, out)
