"""Products of few rows against their formulas, and the choice of implementation."""

import pytest
import torch
from torch import nn

from open_mythos.nn.feed_forward import Expert
from open_mythos.ops import few
from open_mythos.ops.few import (
    feed_forward,
    few_rows,
    linear,
    moe_few,
    overwritable,
    summed_linear,
)
from open_mythos.ops.reference import experts_reference
from open_mythos.ops.routing import route


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("lead", [(1,), (1, 1), (2, 3)])
def test_linear_keeps_leading_dimensions(lead: tuple[int, ...]) -> None:
    x, weight, plus = noise(*lead, 5), noise(4, 5), noise(*lead, 4)
    torch.testing.assert_close(linear(x, weight), torch.einsum("...i,oi->...o", x, weight))
    torch.testing.assert_close(linear(x, weight, plus), linear(x, weight) + plus)


@pytest.mark.parametrize("lead", [(1,), (1, 1), (2, 3)])
def test_a_sum_of_products_is_the_product(lead: tuple[int, ...]) -> None:
    x, weight = noise(*lead, 5), noise(4, 5)
    torch.testing.assert_close(summed_linear(x, weight), torch.einsum("...i,oi->...o", x, weight))
    wide, rows = torch.ones(1, 1024).bfloat16(), torch.ones(1, 1024).bfloat16()
    rows[0, 0] = 2**-7  # a sum in bfloat16 would stop at 256
    assert summed_linear(wide, rows).item() == 1024.0


@pytest.mark.parametrize("lead", [(1,), (1, 1), (2, 3)])
def test_feed_forward_is_an_expert(lead: tuple[int, ...]) -> None:
    expert = Expert(6, 8).double()
    x, plus = noise(*lead, 6), noise(*lead, 6)
    weights = expert.gate_up.weight, expert.down.weight
    torch.testing.assert_close(feed_forward(x, *weights), expert(x))
    torch.testing.assert_close(feed_forward(x, *weights, plus), expert(x) + plus)


@pytest.mark.parametrize("n", [1, 5])
def test_experts_are_those_of_the_router(n: int) -> None:
    x, logits, bias = noise(n, 6), noise(n, 4), noise(4).detach()
    gate_up, down, plus = noise(4, 6, 10), noise(4, 5, 6), noise(n, 6)
    out, ids, load = moe_few(x, logits, bias, 2, gate_up, down, plus)
    want = route(logits, bias, 2)
    assert torch.equal(ids, want.ids)
    assert torch.equal(load, want.load)
    alone = experts_reference(x, want.ids, want.weights, gate_up, down)
    torch.testing.assert_close(out, alone + plus)
    torch.testing.assert_close(moe_few(x, logits, bias, 2, gate_up, down)[0], alone)


@pytest.mark.parametrize("lead", [(1,), (2, 3)])
def test_what_is_spare_is_overwritten_where_no_gradient_is_asked_for(lead: tuple[int, ...]) -> None:
    x, gate_up, down, plus = noise(*lead, 6), noise(16, 6), noise(6, 8), noise(*lead, 6)
    want = feed_forward(x, gate_up, down, plus)
    before = plus.detach().clone()
    torch.testing.assert_close(feed_forward(x, gate_up, down, plus, spare=True), want)
    with torch.no_grad():
        torch.testing.assert_close(feed_forward(x, gate_up, down, plus), want)
        assert torch.equal(plus, before)
        got = feed_forward(x, gate_up, down, plus, spare=True)
    torch.testing.assert_close(got, want)
    assert got.data_ptr() == plus.data_ptr()


def test_a_product_may_add_itself_only_where_nobody_can_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    total, x = torch.zeros(2, 3), torch.zeros(2, 3)
    assert not overwritable(total, x)  # a gradient may be asked for
    with torch.no_grad():
        assert overwritable(total, x)
        assert not overwritable(torch.zeros(3, 2).t(), x)
        assert not overwritable(total, x.double())
        with torch.autocast("cpu", torch.bfloat16):
            assert not overwritable(total, x)
        monkeypatch.setattr(few, "traced", lambda: True)
        assert not overwritable(total, x)


def test_gradients_reach_every_input() -> None:
    x, gate_up, down, plus = noise(1, 3), noise(4, 3), noise(3, 2), noise(1, 3)
    assert torch.autograd.gradcheck(feed_forward, (x, gate_up, down, plus))
    assert torch.autograd.gradcheck(linear, (x, down.detach().t().contiguous(), noise(1, 2)))


class OnCuda:
    """What `few_rows` asks of a tensor, without a device."""

    is_cuda = True

    def __init__(
        self,
        *shape: int,
        dtype: torch.dtype = torch.bfloat16,
        requires_grad: bool = False,
        contiguous: bool = True,
    ) -> None:
        self.shape, self.dtype, self.requires_grad = torch.Size(shape), dtype, requires_grad
        self.is_contiguous = lambda: contiguous
        self.numel = self.shape.numel


def test_kernels_serve_few_rows_of_inference_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few, "HAS_TRITON", True)
    x, weight = OnCuda(1, 1, 8), OnCuda(4, 8, requires_grad=True)
    assert not few_rows(x, weight)
    with torch.no_grad():
        assert few_rows(x, weight, None)
        assert not few_rows(OnCuda(2, 8), weight)
        assert few_rows(OnCuda(2, 8), weight, most=2)
        assert not few_rows(OnCuda(0, 8), weight)
        assert not few_rows(x, OnCuda(4, 8, dtype=torch.float32))
        assert not few_rows(x, OnCuda(4, 8, contiguous=False))
        assert not few_rows(OnCuda(1, 8, dtype=torch.float64))
        assert not few_rows(x, torch.randn(4, 8).bfloat16())
        monkeypatch.setattr(few, "traced", lambda: True)
        assert not few_rows(x, weight)
        monkeypatch.setattr(few, "traced", lambda: False)
        assert few_rows(x, weight)
        monkeypatch.setattr(few, "HAS_TRITON", False)
        assert not few_rows(x, weight)


def test_a_cpu_takes_the_plain_definitions() -> None:
    with torch.no_grad():
        assert not few_rows(torch.randn(1, 8))


def test_only_parameters_of_a_captured_step_are_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = nn.Parameter(torch.randn(4, 8))
    assert not few._settled(weight)
    monkeypatch.setattr(few, "capturing", lambda: True)
    with torch.no_grad():
        assert few._settled(weight)
        assert few._settled(weight[:2])
        assert not few._settled(weight.bfloat16())
        assert not few._settled(weight * 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("n", [1, 9])
@torch.no_grad()
def test_on_cuda_the_kernels_agree_with_the_plain_definitions(n: int) -> None:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda").bfloat16() * shape[-1] ** -0.25

    x, plus, gate_up, down = draw(n, 1, 64), draw(n, 1, 64), draw(96, 64), draw(64, 48)
    pairs = [
        (linear(x, gate_up), few.linear_plain(x.double(), gate_up.double())),
        (
            feed_forward(x, gate_up, down, plus),
            few.feed_forward_plain(*(t.double() for t in (x, gate_up, down, plus))),
        ),
    ]
    for got, want in pairs:
        assert got.dtype == torch.bfloat16
        assert (got.double() - want).norm() < 1e-2 * want.norm()
