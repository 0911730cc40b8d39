"""The least a step can cost on this machine: from the config, and from measured ceilings."""

import math
from dataclasses import dataclass

from open_mythos.bench.clock import MS
from open_mythos.config.budget import cache_bytes_per_token, flops_per_token, parameters
from open_mythos.config.mythos import MythosConfig


# A backward pass makes two products for each one of the forward pass.
TRAIN_OVER_FORWARD = 3


@dataclass(frozen=True)
class Ceilings:
    """What the machine was measured to do at best.

    Attributes:
        flops: FLOP/s of a large matrix product in the dtype that is being measured.
        bandwidth: Bytes/s of a large copy, read and written.
    """

    flops: float
    bandwidth: float

    def milliseconds(self, flops: float, moved: float = 0.0) -> float:
        """The longer of computing `flops` and of moving so many bytes."""
        return MS * max(flops / self.flops, moved / self.bandwidth)


def train_flops(cfg: MythosConfig, n_loops: float, seq_len: int) -> float:
    """FLOPs of one token's training step; what checkpointing computes again is not counted.

    `n_loops` may be a mean: the cost is linear in it.
    """
    return TRAIN_OVER_FORWARD * (_base(cfg, seq_len) + n_loops * _per_loop(cfg, seq_len))


def prefill_flops(cfg: MythosConfig, n_loops: int, seq_len: int) -> float:
    """FLOPs of one prompt token.

    Head and last block are needed at the last position only, but for what that block caches of
    every position.
    """
    budget = flops_per_token(cfg, n_loops, seq_len)
    last = 0.0
    if cfg.coda_layers:
        cached = sum(math.prod(shape) for shape in cfg.cache_widths.values())
        last = budget.coda / cfg.coda_layers - 2 * cfg.dim * cached
    return budget.total - (budget.head + last) * (1 - 1 / seq_len)


def _base(cfg: MythosConfig, seq_len: int) -> float:
    budget = flops_per_token(cfg, 1, seq_len)
    return budget.total - budget.loops


def _per_loop(cfg: MythosConfig, seq_len: int) -> float:
    return flops_per_token(cfg, 1, seq_len).loops


def decode_bytes(
    cfg: MythosConfig, batch: int, context: int, n_loops: int, bytes_per_number: int = 2
) -> dict[str, float]:
    """Bytes that one step of `batch` rows moves, by part; every loop reads its weights anew.

    Of the routed experts, those that `batch` tokens with even, independent choices touch on
    average. Weights that a large cache keeps between loops would make less; activations are left
    out.

    Args:
        cfg: The network.
        batch: Rows.
        context: Cached positions of each row.
        n_loops: Loops per token.
        bytes_per_number: 2 for bfloat16.
    """
    counted = parameters(cfg)
    untouched = (1 - cfg.n_experts_per_tok / cfg.n_experts) ** batch
    loop = counted.loop_attention + counted.router + counted.shared_experts + counted.adapter
    numbers = {
        "dense blocks": counted.prelude + counted.coda,
        "loop": n_loops * loop,
        "routed experts": n_loops * counted.routed_experts * (1 - untouched),
        "head": counted.embedding,
    }
    sizes = {part: count * bytes_per_number for part, count in numbers.items()}
    cache = cache_bytes_per_token(cfg, n_loops, bytes_per_number)
    return {**sizes, "cache": float(batch * context * cache)}
