"""The end of a loop: the next state, its halting probability, and what is paid for it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from open_mythos.ops.rows import rows_backend


class Ledger(NamedTuple):
    """The tensors of a halting ledger, all but `mean` per position.

    Attributes:
        mean: (..., D), the weighted states so far, in float32 or wider.
        spent: (...), halting probabilities so far, added up; float32 or wider.
        halted: (...), boolean.
        loops: (...), int64, loops in which the position took part.
        remainder: (...), the weight paid on halting; 0 before.
    """

    mean: Tensor
    spent: Tensor
    halted: Tensor
    loops: Tensor
    remainder: Tensor


@dataclass(frozen=True)
class HaltingRule:
    """When a position halts, and what happens to it then.

    Attributes:
        weight: (D,) of the halting logit.
        bias: (1,) of the halting logit.
        threshold: Where a position halts, in (0, 1].
        settled: Whether the last loop pays the remainder.
        freeze: Whether a position that has halted keeps its state.
    """

    weight: Tensor
    bias: Tensor
    threshold: float
    settled: bool
    freeze: bool


@dataclass(frozen=True)
class LoopEnd:
    """What a loop leaves behind.

    Attributes:
        state: (..., D), the next state.
        mean_square: (...), of the state, in float32 or wider; without gradient.
        p: (...), halting probabilities, in float32 or wider; None where halting plays no part.
        weight: (...), the state's weight in the readout; None likewise.
        ledger: The next ledger; None likewise.
    """

    state: Tensor
    mean_square: Tensor
    p: Tensor | None = None
    weight: Tensor | None = None
    ledger: Ledger | None = None


def loop_update(
    h: Tensor,
    e: Tensor,
    f: Tensor,
    carry: tuple[Tensor, Tensor] | None,
    rule: HaltingRule | None = None,
    ledger: Ledger | None = None,
    *,
    last: bool | Tensor = False,
) -> LoopEnd:
    """The next state h' = a h + b e + f, its halting probability, and one entry in the ledger.

    Sums are formed in float32 or wider. The state is rounded to its dtype first, and what is
    scored and averaged is the rounded state, since that is what the next loop sees.

    Args:
        h: (..., D), the old state.
        e: As `h`, the loop's input.
        f: As `h`, what the block said.
        carry: The diagonals a and b (D,), float32; None is h' = f.
        rule: How positions halt; None, with `ledger`, where they do not.
        ledger: The account before this loop.
        last: Whether no loop follows; a boolean scalar tensor, which fixes no compiled graph, takes
            the plain definition.
    """
    a, b = carry or (None, None)
    halt = None if rule is None else (rule.weight, rule.bias)
    fits = h.dtype == e.dtype == f.dtype and h.shape == e.shape == f.shape
    fits = fits and isinstance(last, bool)
    if fits and rows_backend(h, e, f, a, b, *(halt or ()), *(ledger or ())) == "triton":
        from open_mythos.kernels import loop_end  # noqa: PLC0415 -- triton is optional

        state, square, booked = loop_end.loop_update(
            h,
            e,
            f,
            a,
            b,
            halt,
            ledger,
            threshold=rule.threshold if rule is not None else 1.0,
            close=bool(last) and rule is not None and rule.settled,
            freeze=rule is not None and rule.freeze,
        )
        if booked is None:
            return LoopEnd(state, square)
        return LoopEnd(state, square, booked[0], booked[1], Ledger(*booked[2:]))
    return loop_update_plain(h, e, f, carry, rule, ledger, last=last)


def linear_update(h: Tensor, e: Tensor, f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The next state a h + b e + f alone, in the dtype of `h`; shapes as in `loop_update`."""
    if h.dtype == e.dtype == f.dtype and rows_backend(h, e, f, a, b) == "triton":
        return loop_update(h, e, f, (a, b)).state
    return (a * h + b * e + f).to(h.dtype)


def loop_update_plain(
    h: Tensor,
    e: Tensor,
    f: Tensor,
    carry: tuple[Tensor, Tensor] | None,
    rule: HaltingRule | None = None,
    ledger: Ledger | None = None,
    *,
    last: bool | Tensor = False,
) -> LoopEnd:
    """`loop_update` in torch, with gradients."""
    wide = torch.float64 if h.dtype == torch.float64 else torch.float32
    state = f
    if carry is not None:
        a, b = carry
        state = (a.to(wide) * h + b.to(wide) * e + f).to(h.dtype)
    if rule is None or ledger is None:
        return LoopEnd(state, _mean_square(state, wide))
    if rule.freeze:
        state = torch.where(ledger.halted.unsqueeze(-1), h, state)
    seen = state.to(wide)
    p = (seen @ rule.weight.to(wide) + rule.bias.to(wide)).sigmoid()
    mean, spent, halted, loops, remainder = ledger
    running = ~halted
    paid = torch.where(running, p, 0.0)
    reached = running & (spent + p >= rule.threshold)
    closing = reached | (running & last) if rule.settled else reached
    weight = torch.where(closing, 1.0 - spent, paid)
    booked = Ledger(
        mean=mean + weight.unsqueeze(-1) * seen,
        spent=spent + paid,
        halted=halted | reached,
        loops=loops + running.to(torch.int64),
        remainder=remainder + torch.where(closing, weight, 0.0),
    )
    return LoopEnd(state, _mean_square(state, wide), p, weight, booked)


@torch.no_grad()
def _mean_square(state: Tensor, wide: torch.dtype) -> Tensor:
    return state.to(wide).square().mean(-1)
