"""The loop's end against the modules that define its parts."""

import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.loop.halting import ACTHalting, HaltingLedger
from open_mythos.nn.loop.injection import LTIInjection
from open_mythos.ops.loop_end import HaltingRule, Ledger, LoopEnd, loop_update, loop_update_plain


LEAD, DIM = (2, 5), 6


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def modules() -> tuple[LTIInjection, ACTHalting]:
    injection, act = LTIInjection(DIM).double(), ACTHalting(DIM).double()
    with torch.no_grad():
        for parameter in (*injection.parameters(), *act.parameters()):
            parameter.add_(0.5 * torch.randn_like(parameter))
    return injection, act


def tensors(ledger: HaltingLedger) -> Ledger:
    return Ledger(ledger.mean, ledger.spent, ledger.halted, ledger.loops, ledger.remainder)


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("injected", [True, False])
def test_loops_of_injection_halting_and_ledger(settled: bool, freeze: bool, injected: bool) -> None:
    injection, act = modules()
    carry = (injection.get_A(), injection.B) if injected else None
    rule = HaltingRule(act.halt.weight[0], act.halt.bias, 0.8, settled=settled, freeze=freeze)
    h, e = noise(*LEAD, DIM), noise(*LEAD, DIM)
    books = HaltingLedger.open(h, 0.8, settled=settled)
    state, ledger = h, tensors(books)
    for t in range(4):
        f = noise(*LEAD, DIM)
        new = injection(h, e, f) if injected else f
        h = torch.where(books.halted.unsqueeze(-1), h, new) if freeze else new
        p = act(h)
        books, weight = books.spend(h, p, last=t == 3)
        last = torch.tensor(t == 3) if settled else t == 3
        got = loop_update(state, e, f, carry, rule, ledger, last=last)
        assert got.p is not None
        assert got.weight is not None
        assert got.ledger is not None
        state, ledger = got.state, got.ledger
        torch.testing.assert_close(state, h)
        torch.testing.assert_close(got.mean_square, h.square().mean(-1), check_stride=False)
        torch.testing.assert_close(got.p, p)
        torch.testing.assert_close(got.weight, weight)
        torch.testing.assert_close(tuple(ledger), tuple(tensors(books)))
    assert ledger.halted.any()  # else nothing here was about halting


def test_gradients_reach_the_loops_parameters() -> None:
    injection, act = modules()
    f, e, h = noise(*LEAD, DIM), noise(*LEAD, DIM), noise(*LEAD, DIM)
    ledger = tensors(HaltingLedger.open(h, 0.8))

    def readout(a: torch.Tensor, b: torch.Tensor, w: torch.Tensor, bias: torch.Tensor):
        rule = HaltingRule(w, bias, 0.8, settled=True, freeze=False)
        first = loop_update(h, e, f, (a, b), rule, ledger)
        end = loop_update(first.state, e, f, (a, b), rule, first.ledger, last=True)
        assert end.ledger is not None
        return end.ledger.mean, end.ledger.remainder, end.state

    inputs = (injection.get_A(), injection.B, act.halt.weight[0], act.halt.bias)
    assert torch.autograd.gradcheck(
        readout, tuple(t.detach().clone().requires_grad_() for t in inputs)
    )


def test_16_bit_states_are_formed_and_scored_in_float32() -> None:
    h, e, f = (noise(*LEAD, DIM).bfloat16() for _ in range(3))
    a, b, w = noise(DIM).float(), noise(DIM).float(), noise(DIM).bfloat16()
    rule = HaltingRule(w, torch.zeros(1).bfloat16(), 0.9, settled=True, freeze=False)
    got = loop_update(h, e, f, (a, b), rule, tensors(HaltingLedger.open(h, 0.9)))
    state = (a * h.float() + b * e.float() + f.float()).bfloat16()
    assert torch.equal(got.state, state)
    assert got.p is not None
    assert got.p.dtype == got.mean_square.dtype == torch.float32
    torch.testing.assert_close(got.p, (state.float() * w.float()).sum(-1).sigmoid())


def test_without_a_rule_only_the_state_moves() -> None:
    h, e, f = noise(*LEAD, DIM), noise(*LEAD, DIM), noise(*LEAD, DIM)
    got = loop_update(h, e, f, (noise(DIM), noise(DIM)))
    assert isinstance(got, LoopEnd)
    assert got.p is got.weight is got.ledger is None
    assert loop_update(h, e, f, None).state is f


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.no_grad()
def test_on_cuda_the_kernel_agrees_with_the_plain_definition() -> None:
    dim = MythosConfig().dim
    h, e, f = (torch.randn(3, dim, device="cuda").bfloat16() for _ in range(3))
    a, b, w = (torch.rand(dim, device="cuda") for _ in range(3))
    rule = HaltingRule(0.05 * w, torch.zeros(1, device="cuda"), 0.9, settled=True, freeze=True)
    ledger = tensors(HaltingLedger.open(h, 0.9))
    got = loop_update(h, e, f, (a, b), rule, ledger)
    want = loop_update_plain(h, e, f, (a, b), rule, ledger)
    assert (got.state.float() - want.state.float()).norm() < 1e-2 * want.state.float().norm()
    assert got.ledger is not None
    assert want.ledger is not None
    torch.testing.assert_close(got.ledger.mean, want.ledger.mean, rtol=1e-2, atol=1e-2)
