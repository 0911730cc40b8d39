"""Fold: a stretch of layers laid over one core, and what each loop adds so that it is its layers.

Loop t of the core's layer j stands for layer t * core + j of the stretch. What the core's maps lack
of those of that layer is a matrix, of which the best one of a given rank is kept: its truncated SVD
(relaxed recursive transformers, Bae et al., arXiv 2410.20672). At full rank nothing is lost.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from open_mythos.errors import ConfigError, did_you_mean


Shared = Literal["average", "first", "last", "step"]
# Each norm's gain and the map that reads through it, by our names.
GAINS = {"attn_norm.weight": "attn.wqkv.weight", "ffn_norm.weight": "ffn.gate_up.weight"}
MAPS = {
    "wqkv": "attn.wqkv.weight",
    "wo": "attn.wo.weight",
    "gate_up": "ffn.gate_up.weight",
    "down": "ffn.down.weight",
}


def check_shared(shared: str) -> None:
    """Refuse an unknown way to choose the core's weights.

    Raises:
        ConfigError: Naming those there are.
    """
    if shared not in get_args(Shared):
        raise ConfigError(f"shared is {shared!r}; {did_you_mean(shared, get_args(Shared))}")


def fold_layer(
    layers: Sequence[dict[str, Tensor]], shared: Shared, rank: int, place: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One layer of the core, and its corrections by loop.

    Gains of norms go into the maps that read through them, so that layers differ in maps alone.

    Args:
        layers: The weights of a block for each loop, by their names in it.
        shared: The core's maps: their "average", which leaves the least to correct; those of the
            "first" loop or of the "last"; or, "step", of the loop as far up as the layer is in the
            core, so that the core's layers come from all over the stretch.
        rank: Of the corrections; 0 is none.
        place: Where the layer is in the core, 0 (first) .. 1 (last).

    Returns:
        The block's weights, and the tables of its corrections, by `Corrections`' names; in the
        dtype of the layers.
    """
    dtype = layers[0]["attn.wo.weight"].dtype
    plain = [without_gains(layer) for layer in layers]
    core = {name: torch.ones_like(layers[0][name]) for name in GAINS}
    tables: dict[str, Tensor] = {}
    for name, key in MAPS.items():
        every = torch.stack([layer[key] for layer in plain])
        base = _shared(every, shared, place).to(dtype)
        core[key] = base
        if rank:
            down, up = best_of_rank(every - base.float(), rank)
            tables |= {f"{name}_down": down.to(dtype), f"{name}_up": up.to(dtype)}
    return core, tables


def without_gains(layer: dict[str, Tensor]) -> dict[str, Tensor]:
    """A block's maps in float32, with the gains of the norms before them inside."""
    maps = {key: layer[key].float() for key in MAPS.values()}
    for gain, key in GAINS.items():
        maps[key] = maps[key] * layer[gain].float()
    return maps


def best_of_rank(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest products up @ down of a rank, in the Frobenius norm (Eckart and Young 1936).

    Of the matrix D it keeps what lies in its first singular vectors V, found as those of D D^T or
    D^T D, in float64: (D V) V^T. The size is shared out by one number, a power of two, for all of
    them, so that where a matrix is zero one factor alone is, and learns. At full rank V is the
    identity, and the product exact.

    Args:
        matrices: (T, out, in).
        rank: At least 1; a smaller side of the matrices stands for a larger one.

    Returns:
        down (T, rank, in) and up (T, out, rank), in the dtype of the matrices.
    """
    count, rows, columns = matrices.shape
    wide = rows < columns
    found = matrices.double().mT if wide else matrices.double()  # (T, longer, shorter)
    side = min(rows, columns)
    vectors = torch.eye(side, dtype=found.dtype).expand(count, -1, -1)
    if rank < side:
        vectors = torch.linalg.eigh(found.mT @ found).eigenvectors.flip(-1)[:, :, :rank]
    long, short = found @ vectors, vectors.mT
    size = long.square().mean().sqrt() / short.square().mean().sqrt()
    scale = 2.0 ** round(math.log2(size) / 2) if size > 0 else 1.0
    long, short = (long / scale).to(matrices.dtype), (short * scale).to(matrices.dtype)
    return (long.mT, short.mT) if wide else (short, long)


def _shared(every: Tensor, shared: Shared, place: float) -> Tensor:
    """The core's map, of those (T, out, in) of all loops."""
    if shared == "average":
        return every.mean(0)
    last = len(every) - 1
    return every[{"first": 0, "last": last, "step": round(place * last)}[shared]]
