import pytest
import torch
from torch.nn import functional as F

from open_mythos.kernels.few_linear import MOST_ROWS, few_linear, few_swiglu


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter cuts bfloat16 off instead of rounding it.
LIMITS = {
    torch.float32: 1e-5,
    torch.float16: 3e-3,
    torch.bfloat16: 1e-2 if DEVICE == "cuda" else 2e-2,
}


def draw(seed, *shapes, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    scaled = (torch.randn(s, generator=g) * s[-1] ** -0.25 for s in shapes)
    return [t.to(DEVICE, dtype) for t in scaled]


def plain_swiglu(x, gate_up, down):
    gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, down)


def distance(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


@pytest.mark.parametrize("n", [1, 2, MOST_ROWS])
@pytest.mark.parametrize(("dim", "outputs"), [(40, 24), (33, 7), (1100, 3)])
def test_linear_is_the_product(n, dim, outputs):
    x, weight, plus = draw(n + dim, (n, dim), (outputs, dim), (n, outputs))
    want = F.linear(x.double(), weight.double())
    assert distance(few_linear(x, weight), want) < LIMITS[torch.float32]
    assert distance(few_linear(x, weight, plus, eager=True), want + plus.double()) < 1e-5


@pytest.mark.parametrize("n", [1, 3, MOST_ROWS])
@pytest.mark.parametrize(("dim", "width"), [(40, 24), (33, 7), (24, 66)])
def test_swiglu_is_the_plain_one(n, dim, width):
    x, gate_up, down, plus = draw(n + dim, (n, dim), (2 * width, dim), (dim, width), (n, dim))
    want = plain_swiglu(x.double(), gate_up.double(), down.double())
    assert distance(few_swiglu(x, gate_up, down), want) < LIMITS[torch.float32]
    assert distance(few_swiglu(x, gate_up, down, plus, eager=True), want + plus.double()) < 1e-5


def test_shapes_that_give_a_program_more_or_fewer_outputs_and_several_steps():
    x, weight = draw(0, (1, 16), (513, 16))
    assert distance(few_linear(x, weight), F.linear(x.double(), weight.double())) < 1e-5
    x, weight = draw(0, (2, 300), (1030, 300))
    assert distance(few_linear(x, weight), F.linear(x.double(), weight.double())) < 1e-5
    x, weight = draw(0, (1, 9000), (2, 9000))
    assert distance(few_linear(x, weight), F.linear(x.double(), weight.double())) < 1e-5
    x, gate_up, down = draw(1, (1, 4100), (4, 4100), (4100, 2))
    want = plain_swiglu(x.double(), gate_up.double(), down.double())
    assert distance(few_swiglu(x, gate_up, down), want) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 5])
def test_sixteen_bits(n, dtype):
    x, gate_up, down, plus = draw(n, (n, 72), (80, 72), (72, 40), (n, 72), dtype=dtype)
    got = few_swiglu(x, gate_up, down, plus)
    want = plain_swiglu(x.double(), gate_up.double(), down.double()) + plus.double()
    assert got.dtype == dtype
    assert distance(got, want) < LIMITS[dtype]
    assert distance(few_linear(x, gate_up), x.double() @ gate_up.double().T) < LIMITS[dtype]


@pytest.mark.parametrize("n", [1, 4])
def test_rows_outside_leave_no_trace(n):
    """Neighbours of the inputs in memory are never part of a sum, not even times zero."""
    x, weight = draw(2, (n + 2, 20), (9, 20))
    want = few_linear(x[:n].clone(), weight[:7].clone())
    x[n:], weight[7:] = float("nan"), float("nan")
    assert torch.equal(few_linear(x[:n], weight[:7]), want)


@pytest.mark.skipif(DEVICE == "cpu", reason="CUDA graphs")
@pytest.mark.parametrize("n", [1, 4])
def test_a_captured_graph_follows_its_inputs(n):
    args = draw(5, (n, 256), (1024, 256), (256, 512), (n, 256), dtype=torch.bfloat16)
    other = draw(6, (n, 256), (1024, 256), (256, 512), (n, 256), dtype=torch.bfloat16)
    x, gate_up, down, plus = args
    few_swiglu(x, gate_up, down, plus, eager=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = few_swiglu(x, gate_up, down, plus, eager=True)
    for target, source in zip(args, other, strict=True):
        target.copy_(source)
    torch.cuda.synchronize()
    graph.replay()
    want = plain_swiglu(x.double(), gate_up.double(), down.double()) + plus.double()
    assert distance(out, want) < LIMITS[torch.bfloat16]
    first = out.clone()
    graph.replay()
    assert torch.equal(first, out)
