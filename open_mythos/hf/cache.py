"""LoopCache: keys and values of every layer and loop, behind transformers' Cache interface."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from open_mythos.errors import CacheError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.cache import KVCache


# The argument and the output that hold a cache: renamed between transformers 5.17 and 5.24.
CACHE_NAME = (
    "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
)


class LoopCache(Cache):  # type: ignore[misc]
    """A `KVCache` that is made on first use, grows as it is filled, and can be reordered and cut.

    The cache that `generate` would make has one slot per layer, where a looped network has one per
    layer of each loop.

    Attributes:
        kv: The cache itself; None before the first pass.
        expected: Positions to make room for at first.
    """

    is_compileable = False  # its shapes grow
    is_croppable = True
    is_initialized = True

    def __init__(self, expected: int = 0) -> None:
        """Nothing is allocated yet."""
        super().__init__(layers=[])
        self.kv: KVCache | None = None
        self.expected = expected

    def open(self, network: OpenMythos, batch: int, count: int) -> KVCache:
        """The cache with room for `count` more positions of `batch` rows.

        Raises:
            CacheError: If the rows are more than the network's max_seq_len.
        """
        wanted, most = self.get_seq_length() + count, network.cfg.max_seq_len
        if self.kv is None:
            room = min(max(wanted, self.expected), most)
            self.kv = network.new_cache(batch, max(room, wanted))
        elif wanted > self.kv.capacity:  # doubled, so that copying stays linear in the length
            self.kv.grow(max(wanted, min(2 * self.kv.capacity, most)))
        return self.kv

    # -- what generation asks --------------------------------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions read so far; the same in every layer."""
        del layer_idx
        return 0 if self.kv is None else self.kv.length

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Index of the next position."""
        return self.get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Keys that `query_length` new positions meet, and where those begin."""
        return self.get_seq_length(layer_idx) + query_length, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: it grows."""
        del layer_idx
        return -1

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1, by its former name."""
        return self.get_max_length(layer_idx)

    @property
    def batch_size(self) -> int:
        """Rows; -1 before the first pass."""
        return -1 if self.kv is None else self.kv.batch

    @property
    def is_sliding(self) -> list[bool]:
        """Of the layers: none forgets."""
        return [False]

    @property
    def is_linear(self) -> list[bool]:
        """Of the layers: all keep keys and values."""
        return [False]

    @property
    def is_dummy(self) -> list[bool]:
        """Of the layers: none stands in for another."""
        return [False]

    # -- what it does to rows and positions ------------------------------------------------------

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Hold these rows, in this order."""
        if self.kv is not None:
            self.kv.select(beam_idx.to(self._device))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Hold these rows only."""
        if self.kv is not None:
            rows = torch.arange(self.kv.batch, device=self._device)
            self.kv.select(rows[indices.to(self._device)])  # indices may be a boolean mask

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Hold every row so often, copies side by side."""
        if self.kv is not None:
            rows = torch.arange(self.kv.batch, device=self._device)
            self.kv.select(rows.repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int | Tensor) -> None:
        """Forget the last -tokens_to_remove positions; 0 forgets none.

        Raises:
            CacheError: If the number is positive, or there are fewer positions.
        """
        count = int(tokens_to_remove)  # transformers 5.17 counts in a tensor
        if count > 0:
            raise CacheError(f"crop takes the negative number of positions to forget, not {count}")
        if self.kv is not None and count:
            self.kv.truncate(self.kv.length + count)

    def reset(self) -> None:
        """Forget everything."""
        self.kv = None

    def update(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Refused: only the network itself writes here.

        Raises:
            CacheError: Always.
        """
        raise CacheError(
            "a LoopCache is filled by its own network, layer by layer and loop by loop; pass it as "
            f"{CACHE_NAME}= to OpenMythosForCausalLM"
        )

    @property
    def _device(self) -> torch.device:
        assert self.kv is not None
        return next(t.device for _, slot in self.kv.slots() for t in slot.store.values())

    def __len__(self) -> int:
        return 0 if self.kv is None else sum(1 for _ in self.kv.slots())

    def __repr__(self) -> str:
        return f"LoopCache({self.batch_size} rows, {self.get_seq_length()} positions)"
