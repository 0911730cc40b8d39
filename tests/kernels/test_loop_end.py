"""The loop-end kernel against its plain twin, over several loops of one ledger."""

import pytest
import torch

from open_mythos.kernels.loop_end import loop_update
from open_mythos.ops.loop_end import HaltingRule, Ledger, loop_update_plain


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMIT = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape).to(DEVICE, dtype)


def opened(lead: tuple[int, ...], dim: int) -> Ledger:
    zero = torch.zeros(lead, device=DEVICE)
    return Ledger(torch.zeros(*lead, dim, device=DEVICE), zero, zero.bool(), zero.long(), zero)


def close(got: torch.Tensor, want: torch.Tensor, limit: float) -> None:
    assert got.shape == want.shape
    assert (got.double() - want.double()).norm() <= limit * want.double().norm() + 1e-12


@pytest.mark.parametrize(
    ("lead", "dim", "dtype", "settled", "freeze", "injected"),
    [  # each is one or two kernels to compile: not all of all
        ((1, 1), 16, torch.bfloat16, True, True, True),
        ((2, 3), 40, torch.bfloat16, False, True, False),
        ((5,), 1, torch.float32, True, False, True),
        ((2, 3), 40, torch.float32, True, True, True),
        ((2, 3), 24, torch.float16, False, False, True),
        ((6,), 40, torch.float32, True, True, False),
    ],
)
def test_three_loops(
    lead: tuple[int, ...],
    dim: int,
    dtype: torch.dtype,
    settled: bool,
    freeze: bool,
    injected: bool,
) -> None:
    e, h = noise(*lead, dim, dtype=dtype), noise(*lead, dim, dtype=dtype)
    a, b = (noise(dim).sigmoid(), noise(dim)) if injected else (None, None)
    rule = HaltingRule(
        noise(dim, dtype=dtype), noise(1, dtype=dtype), 0.8, settled=settled, freeze=freeze
    )
    ledger = opened(lead, dim)
    for t in range(3):
        f = noise(*lead, dim, dtype=dtype)
        last = t == 2
        state, square, booked = loop_update(
            h,
            e,
            f,
            a,
            b,
            (rule.weight, rule.bias),
            ledger,
            threshold=rule.threshold,
            close=last and settled,
            freeze=freeze,
        )
        carry = None if a is None or b is None else (a, b)
        assert state.dtype == dtype
        close(state, loop_update_plain(h, e, f, carry, rule, ledger).state, LIMIT[dtype])
        # From the rounded state on all is float32, whatever the state's dtype.
        want = loop_update_plain(h, e, state, None, rule, ledger, last=last)
        close(square, want.mean_square, 1e-5)
        assert booked is not None
        assert want.p is not None
        assert want.weight is not None
        assert want.ledger is not None
        close(booked[0], want.p, 1e-5)
        close(booked[1], want.weight, 1e-5)
        ours = Ledger(*booked[2:])
        for name in ("mean", "spent", "remainder"):
            close(getattr(ours, name), getattr(want.ledger, name), 1e-5)
        assert torch.equal(ours.halted, want.ledger.halted)
        assert torch.equal(ours.loops, want.ledger.loops)
        h, ledger = want.state, want.ledger


def test_halted_positions_pay_nothing_and_keep_their_books() -> None:
    h, e, f = noise(3, 8), noise(3, 8), noise(3, 8)
    before = opened((3,), 8)._replace(
        halted=torch.tensor([True, False, True], device=DEVICE),
        mean=noise(3, 8),
        spent=torch.full((3,), 0.7, device=DEVICE),
        remainder=torch.full((3,), 0.3, device=DEVICE),
    )
    halt = (noise(8), noise(1))
    state, _, booked = loop_update(
        h, e, f, noise(8), noise(8), halt, before, threshold=0.9, close=True, freeze=True
    )
    assert booked is not None
    _, weight, mean, spent, halted, loops, remainder = booked
    done = before.halted
    assert torch.equal(state[done], h[done])
    assert (weight[done] == 0).all()
    assert torch.equal(mean[done], before.mean[done])
    assert torch.equal(spent[done], before.spent[done])
    assert torch.equal(remainder[done], before.remainder[done])
    assert loops.tolist() == [0, 1, 0]
    assert halted[done].all()
    assert weight[1].item() == pytest.approx(0.3)


def test_without_halting_only_the_state_moves() -> None:
    h, e, f, a, b = noise(2, 5), noise(2, 5), noise(2, 5), noise(5), noise(5)
    state, square, booked = loop_update(
        h, e, f, a, b, None, None, threshold=1.0, close=False, freeze=False
    )
    assert booked is None
    torch.testing.assert_close(state, a * h + b * e + f)
    torch.testing.assert_close(square, state.square().mean(-1))


def test_no_positions() -> None:
    empty = torch.empty(0, 4, device=DEVICE)
    halt = (noise(4), noise(1))
    state, _, booked = loop_update(
        empty,
        empty,
        empty,
        None,
        None,
        halt,
        opened((0,), 4),
        threshold=0.9,
        close=False,
        freeze=False,
    )
    assert state.shape == (0, 4)
    assert booked is not None
