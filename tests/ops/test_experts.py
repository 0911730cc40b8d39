"""Every experts backend against one token and one expert at a time, forward and backward."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from open_mythos.errors import InputError
from open_mythos.ops.backend import HAS_TRITON, has_grouped
from open_mythos.ops.experts import run_experts
from open_mythos.ops.reference import experts_reference


needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="needs triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Problem = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def problem(  # every expert sees what `spread` says
    n: int, experts: int, k: int, dim: int, hidden: int, spread: str, seed: int
) -> Problem:
    g = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    if spread == "one":
        first = torch.full((n, 1), seed % experts)
        rest = (
            torch.stack(
                [torch.tensor([j for j in range(experts) if j != seed % experts][: k - 1])] * n
            )
            if n and k > 1
            else torch.zeros(n, k - 1)
        )
        ids = torch.cat((first, rest.long()), dim=1)
    else:
        ids = noise(n, experts).topk(k, dim=-1).indices if n else torch.zeros(0, k).long()
    weights = noise(n, k).softmax(-1)
    return (
        noise(n, dim),
        ids,
        weights,
        noise(experts, dim, 2 * hidden),
        noise(experts, hidden, dim),
    )


def by_definition(x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The sum of weight * down(silu(gate(x)) * up(x))."""
    hidden = down.shape[1]
    out = torch.zeros_like(x)
    for n in range(x.shape[0]):
        for j in range(ids.shape[1]):
            e = int(ids[n, j])
            gate, up = x[n] @ gate_up[e, :, :hidden], x[n] @ gate_up[e, :, hidden:]
            silu = gate / (1 + (-gate).exp())
            out[n] = out[n] + weights[n, j] * ((silu * up) @ down[e])
    return out


def gradients(out: Tensor, up: Tensor, at: list[Tensor]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad((out * up).sum(), at, allow_unused=True)


@pytest.mark.parametrize("backend", ["auto", "loop", "gathered", "dense", "reference"])
@given(
    n=st.sampled_from([0, 1, 2, 7]),
    experts=st.integers(1, 6),
    k=st.integers(1, 3),
    spread=st.sampled_from(["random", "one"]),
    seed=st.integers(0, 2**20),
)
def test_backends_equal_the_definition_in_float64(
    backend: str, n: int, experts: int, k: int, spread: str, seed: int
) -> None:
    x, ids, weights, gate_up, down = problem(n, experts, min(k, experts), 4, 3, spread, seed)
    at = [t.requires_grad_() for t in (x, weights, gate_up, down)]
    got = run_experts(x, ids, weights, gate_up, down, backend)
    want = by_definition(x, ids, weights, gate_up, down)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    if n == 0:
        return
    up = torch.randn_like(want)
    for ours, theirs in zip(gradients(got, up, at), gradients(want, up, at), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", ["loop", "gathered", "dense"])
def test_without_tokens_every_weight_is_still_in_the_graph(backend: str) -> None:
    x, ids, weights, gate_up, down = problem(0, 3, 2, 4, 3, "random", 1)
    at = [gate_up.requires_grad_(), down.requires_grad_()]
    out = run_experts(x, ids, weights, gate_up, down, backend)
    for grad in torch.autograd.grad(out.sum(), at):  # raises if a weight is not in the graph
        assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize("backend", ["loop", "gathered", "dense"])
def test_experts_without_tokens_get_a_zero_gradient_not_none(backend: str) -> None:
    x, _, weights, gate_up, down = problem(4, 5, 1, 4, 3, "random", 2)
    ids = torch.full((4, 1), 3)
    gate_up.requires_grad_()
    out = run_experts(x, ids, weights, gate_up, down, backend)
    (grad,) = torch.autograd.grad(out.sum(), [gate_up])
    used = grad.abs().sum(dim=(1, 2)) > 0
    assert used.tolist() == [False, False, False, True, False]


@pytest.mark.skipif(not has_grouped(), reason="this torch has no grouped matmul")
@pytest.mark.parametrize("backend", ["grouped", "auto"])
@pytest.mark.parametrize("spread", ["random", "one"])
@pytest.mark.parametrize("n", [1, 9])
def test_grouped_equals_the_float64_definition_within_bfloat16(
    backend: str, spread: str, n: int
) -> None:
    for seed in range(4):
        exact = problem(n, 6, 2, 8, 16, spread, seed)
        # Scale to unit-size activations, and round, so that both sides read the same numbers.
        x, ids, weights, gate_up, down = (
            (t * s).bfloat16() if t.is_floating_point() else t
            for t, s in zip(exact, (1, 1, 1, 0.3, 0.25), strict=True)
        )
        ours = [t.clone().requires_grad_() for t in (x, weights, gate_up, down)]
        wide = [t.double().requires_grad_() for t in (x, weights, gate_up, down)]
        got = run_experts(ours[0], ids, *ours[1:], backend)
        want = by_definition(wide[0], ids, *wide[1:])
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.double(), want, rtol=0.03, atol=0.03)
        up = torch.randn_like(want)
        theirs = gradients(want, up.bfloat16().double(), wide)
        for a, b in zip(gradients(got, up.bfloat16(), ours), theirs, strict=True):
            assert a is not None
            torch.testing.assert_close(a.double(), b, rtol=0.05, atol=0.06)


@needs_triton
@pytest.mark.parametrize(
    ("how", "extra"), [("eager", True), ("eager", False), ("compiled", True), ("recomputed", False)]
)
# torch 2.13, inside its compiler.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_fused_equals_the_float64_definition_within_float32(how: str, extra: bool) -> None:
    x, ids, weights, gate_up, down = problem(5, 3, 2, 16, 16, "random", 3)
    plus = torch.randn_like(x) if extra else None
    wide = [t.requires_grad_() for t in (x, weights, gate_up, down)]
    want = by_definition(x, ids, weights, gate_up, down)
    ours = [t.detach().float().to(DEVICE).requires_grad_() for t in wide]

    def call(x: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        more = None if plus is None else plus.float().to(DEVICE)
        return run_experts(x, ids.to(DEVICE), weights, gate_up, down, "fused", extra=more)

    if how == "recomputed":
        got = checkpoint(call, *ours, use_reentrant=False)
    elif how == "compiled":
        torch._dynamo.reset()
        got = torch.compile(call, backend="aot_eager", fullgraph=True)(*ours)
    else:
        got = call(*ours)
        with torch.no_grad():
            assert torch.equal(call(*ours), got)
    shown = want if plus is None else want + plus
    torch.testing.assert_close(got.cpu().double(), shown, rtol=1e-4, atol=1e-4)
    up = torch.randn_like(want)
    theirs = torch.autograd.grad(want, wide, up)
    mine = torch.autograd.grad(got, ours, up.float().to(DEVICE))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.cpu().double(), b, rtol=1e-4, atol=1e-3)


@needs_triton
def test_fused_computes_in_the_narrow_type_of_autocast() -> None:
    given = problem(6, 3, 2, 16, 16, "random", 4)
    x, ids, weights, gate_up, down = (t.to(DEVICE) for t in given)
    narrow = [t.bfloat16() for t in (x, gate_up, down)]
    want = run_experts(narrow[0], ids, weights.float(), *narrow[1:], "fused")
    with torch.autocast(DEVICE, torch.bfloat16):
        got = run_experts(
            x.float(), ids, weights.float(), gate_up.float(), down.float(), "fused", extra=x.float()
        )
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want.float() + x.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["loop", "gathered", "dense", "reference"])
def test_extra_is_added(backend: str) -> None:
    p = problem(5, 3, 2, 4, 3, "random", 6)
    plus = torch.randn_like(p[0])
    plain = run_experts(*p, backend)
    assert torch.equal(run_experts(*p, backend, extra=plus), plain + plus)


@pytest.mark.parametrize("n", [1, 2])
@torch.no_grad()
def test_a_compiled_step_of_few_choices_is_one_graph(n: int) -> None:
    """One row takes sums of products, two take matmuls; neither asks the host for anything."""
    given = problem(n, 20, 3, 8, 4, "random", 7)
    torch._dynamo.reset()
    compiled = torch.compile(run_experts, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(*given), by_definition(*given), rtol=1e-9, atol=1e-9)
    narrow = [t.bfloat16() if t.is_floating_point() else t for t in given]
    error = (compiled(*narrow).double() - by_definition(*given)).norm()
    assert error < 0.02 * by_definition(*given).norm()


@pytest.mark.parametrize("n", [0, 1])
def test_reference_itself_equals_the_definition(n: int) -> None:
    p = problem(n, 4, 2, 4, 3, "random", 5)
    torch.testing.assert_close(experts_reference(*p), by_definition(*p), rtol=1e-12, atol=1e-12)


def test_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="gruoped"):
        run_experts(*problem(2, 3, 1, 4, 3, "random", 0), "gruoped")


def test_rows_are_filled_up_to_few_different_numbers_in_16_bits_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: set[int] = set()
    multiply = Tensor.__matmul__

    def watch(a: Tensor, b: Tensor) -> Tensor:
        seen.add(a.shape[0])
        return multiply(a, b)

    monkeypatch.setattr(Tensor, "__matmul__", watch)
    for dtype, filled in ((torch.bfloat16, True), (torch.float32, False)):
        seen.clear()
        exact = problem(57, 3, 1, 8, 4, "random", 11)
        given = [t.to(dtype) if t.is_floating_point() else t for t in exact]
        run_experts(*given, "loop")
        assert all(rows % 32 == 0 for rows in seen) == filled
