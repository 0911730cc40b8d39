"""Keys and values of what a MoDA network has read: those of the sequence, layer by layer."""

import torch
from torch import Tensor

from open_mythos.errors import CacheError
from open_mythos.moda.config import MoDAConfig
from open_mythos.nn.cache import LayerCache


class MoDACache:
    """One `LayerCache` per layer, filled by passes and committed when they are over.

    What a layer writes for the layers above is read at its own position alone, in the pass that
    writes it: nothing of it is kept, and the cache is that of a plain transformer.

    Attributes:
        layers: The layers' caches, from below.
        length: Committed positions.
    """

    def __init__(
        self,
        cfg: MoDAConfig,
        batch: int,
        capacity: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Preallocate for `batch` rows of up to `capacity` positions.

        Raises:
            CacheError: If a number is not positive, or `capacity` exceeds max_seq_len.
        """
        if batch < 1 or capacity < 1:
            raise CacheError(f"batch ({batch}) and capacity ({capacity}) must be >= 1")
        if capacity > cfg.max_seq_len:
            raise CacheError(
                f"capacity is {capacity}, the model's max_seq_len is {cfg.max_seq_len}; ask for "
                "less, or raise the field"
            )
        heads = (cfg.n_heads_kv, cfg.head_dim)
        self.shape = _shape(cfg)
        self.batch, self.length = batch, 0
        self.layers = [
            LayerCache({"k": heads, "v": heads}, batch, capacity, device=device, dtype=dtype)
            for _ in range(cfg.n_layers)
        ]

    @property
    def capacity(self) -> int:
        """Positions there is room for."""
        return self.layers[0].capacity

    @property
    def nbytes(self) -> int:
        """Bytes allocated, used or not."""
        stores = [tensor for layer in self.layers for tensor in layer.store.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in stores)

    def check(self, cfg: MoDAConfig, batch: int, like: Tensor) -> None:
        """Refuse a cache that was made for something else.

        Raises:
            CacheError: Naming what differs.
        """
        wanted = _shape(cfg)
        differs = {n: (v, wanted[n]) for n, v in self.shape.items() if v != wanted[n]}
        if differs:
            raise CacheError(
                f"this cache belongs to another config: (cache, model) differ in {differs}; make "
                "one with model.new_cache(batch, capacity)"
            )
        if batch != self.batch:
            raise CacheError(
                f"this cache holds {self.batch} rows, the input has {batch}; use a new cache, or "
                "the same rows"
            )
        self.layers[0].check(like)

    def advance(self, count: int) -> None:
        """Commit the `count` positions that every layer has written."""
        for layer in self.layers:
            layer.advance(count)
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget positions from `length` on.

        Raises:
            CacheError: If there are fewer positions than that.
        """
        if not 0 <= length <= self.length:
            raise CacheError(f"cannot truncate a cache of {self.length} positions to {length}")
        for layer in self.layers:
            layer.length = length
        self.length = length


def _shape(cfg: MoDAConfig) -> dict[str, object]:
    """The config's fields that a cached number depends on, by name."""
    names = ("d_model", "n_layers", "n_heads_q", "n_heads_kv", "head_dim", "rope_base")
    return {name: getattr(cfg, name) for name in (*names, "depth_from", "block_norm")}
