"""Noise that depends on names alone: seed, continuation, position and purpose, never on company.

The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
whose output is a pure function of a key and a counter: the same bits on every device, for one row
or for many at once, and nothing to save or to rewind when a request is put off.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from open_mythos.nn.upload import upload


WORD = 2**32
LOW = WORD - 1
ROUNDS = 10
# Multipliers and key steps of Philox4x32.
MULTIPLY = (0xD2511F53, 0xCD9E8D57)
STEP = (0x9E3779B9, 0xBB67AE85)
LANES = 4  # 32-bit words that one value of the counter gives
# float32 rounds the top of (0, 1) to 1, whose clock never rings.
MOST = 1.0 - 2.0**-24


class Purpose(IntEnum):
    """What a draw is for: two purposes share no draws."""

    TOKEN = 0
    DRAFT = 1
    ACCEPT = 2
    RESIDUAL = 3


@dataclass(frozen=True)
class Key:
    """The name of one row's draws at one position.

    Attributes:
        seed: Of the request, any int of 64 bits.
        index: Which of the request's continuations.
        position: Tokens of that continuation before this one.
    """

    seed: int
    index: int
    position: int


def fresh_seed(generator: torch.Generator | None = None) -> int:
    """A seed for a request that names none; torch's own generator makes it unless one is given."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (1,), generator=generator, device=device))


def exponentials(
    keys: Sequence[Key],
    count: int,
    device: torch.device | str = "cpu",
    purpose: Purpose = Purpose.TOKEN,
) -> Tensor:
    """Draws (B, count) float32 of a unit exponential; a row follows from its key alone."""
    return exponentials_of(named(keys, device, purpose), count)


def exponentials_of(names: Tensor, count: int) -> Tensor:
    """The same for names (B, 5) that lie on the device; see `named`."""
    # Of a float32 near 0 all digits count, and near 0 lie the clocks that win.
    return -torch.log1p(-_uniforms(names, count))


def uniforms(
    keys: Sequence[Key],
    count: int,
    device: torch.device | str = "cpu",
    purpose: Purpose = Purpose.TOKEN,
) -> Tensor:
    """Draws (B, count) float32, uniform in (0, 1); a row follows from its key alone."""
    return _uniforms(named(keys, device, purpose), count)


def _uniforms(names: Tensor, count: int) -> Tensor:
    drawn = _words(names, count).to(torch.float32).add_(0.5).mul_(1.0 / WORD)
    return drawn.clamp_(max=MOST)


def words(
    keys: Sequence[Key],
    count: int,
    device: torch.device | str = "cpu",
    purpose: Purpose = Purpose.TOKEN,
) -> Tensor:
    """The bits behind them: (B, count) int64, each in 0 .. 2^32 - 1."""
    return _words(named(keys, device, purpose), count)


def named(
    keys: Sequence[Key], device: torch.device | str = "cpu", purpose: Purpose = Purpose.TOKEN
) -> Tensor:
    """Names for the generator, (B, 5) int64: two words of the seed, position, index, purpose."""
    rows = [
        (k.seed & LOW, (k.seed >> 32) & LOW, k.position & LOW, k.index & LOW, int(purpose))
        for k in keys
    ]
    return upload(rows, torch.device(device), torch.int64)


def _words(names: Tensor, count: int) -> Tensor:
    low, high, position, index, purpose = names.unsqueeze(-1).unbind(1)
    blocks = torch.arange(math.ceil(count / LANES), device=names.device)
    counter = (blocks.expand(len(names), -1), position, index, purpose)
    lanes = philox(counter, (low, high))
    return torch.stack(torch.broadcast_tensors(*lanes), dim=-1).flatten(1)[:, :count]


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four words from four, under a key of two: int64 tensors that broadcast, of 32 bits each."""
    a, b, c, d = counter
    first, second = key
    for turn in range(ROUNDS):
        if turn:
            first, second = (first + STEP[0]) & LOW, (second + STEP[1]) & LOW
        # The product wraps in 64 bits: its bits are right, its sign means nothing.
        left, right = a * MULTIPLY[0], c * MULTIPLY[1]
        a, b = ((right >> 32) & LOW) ^ b ^ first, right & LOW
        c, d = ((left >> 32) & LOW) ^ d ^ second, left & LOW
    return a, b, c, d
