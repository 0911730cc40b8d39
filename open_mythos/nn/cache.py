"""Keys and values of what was already read: preallocated, typed, with a length."""

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig, layer_name
from open_mythos.errors import CacheError


if TYPE_CHECKING:
    from open_mythos.nn.attention.context import AttentionContext
    from open_mythos.nn.attention.gqa import GroupedAttention
    from open_mythos.nn.attention.mla import MLAttention


Entries = dict[str, Tensor]  # entry name -> (B, S, *width)


class LayerCache:
    """What one layer, or one loop of the recurrent block, has cached.

    Writing and committing are apart: `extend` writes behind the committed length and `advance`
    commits, so that a forward pass that fails half-way leaves the cache as it was.
    """

    def __init__(
        self,
        widths: Mapping[str, tuple[int, ...]],
        batch: int,
        capacity: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Room for `capacity` positions of `batch` rows; `widths` is the shape of one position."""
        self.store: Entries = {
            name: torch.zeros(batch, capacity, *width, device=device, dtype=dtype)
            for name, width in widths.items()
        }
        self.length = 0

    @property
    def capacity(self) -> int:
        """Positions there is room for."""
        return next(iter(self.store.values())).shape[1]

    def extend(self, new: Entries) -> Entries:
        """Write `new` (B, T, ...) behind the committed positions; return all of them, with `new`.

        To autograd the cached past is a constant: gradients flow through `new` only.

        Raises:
            CacheError: If the room is too small.
        """
        room = self.room(next(iter(new.values())).shape[1])
        seen: Entries = {}
        for name, tensor in new.items():
            room[name].copy_(tensor.detach())
            if torch.is_grad_enabled() and tensor.requires_grad:
                seen[name] = torch.cat((self.store[name][:, : self.length].clone(), tensor), dim=1)
            else:
                seen[name] = self.shown(name, tensor.shape[1])
        return seen

    def room(self, count: int) -> Entries:
        """Where the next `count` positions go, as views: for who writes them there by itself.

        Raises:
            CacheError: If the room is too small.
        """
        end = self.length + count
        if end > self.capacity:
            raise CacheError(
                f"the cache holds {self.capacity} positions, this call needs {end}; "
                "make it with a larger capacity"
            )
        return {name: store[:, self.length : end] for name, store in self.store.items()}

    def shown(self, name: str, count: int) -> Tensor:
        """One entry of the committed positions and of `count` behind them, as a view."""
        return self.store[name][:, : self.length + count]

    def check(self, like: Tensor) -> None:
        """Refuse to serve tensors of another device or dtype than `like`.

        Raises:
            CacheError: Naming both.
        """
        for store in self.store.values():
            if (store.device, store.dtype) != (like.device, like.dtype):
                raise CacheError(
                    f"this cache is {store.dtype} on {store.device}, the model {like.dtype} on "
                    f"{like.device}; make a new one after moving the model"
                )

    def layer(self, index: int) -> "LayerCache":
        """The cache of one of the core's layers, where a loop's slot holds those of all.

        It shares storage, and knows the length of now: it is made for one pass.
        """
        part = copy.copy(self)
        names = {layer_name(name, index): name for name in self.store if "." not in name}
        part.store = {plain: self.store[name] for name, plain in names.items()}
        return part

    def advance(self, count: int) -> None:
        """Commit the `count` positions written last."""
        self.length += count

    def grow(self, capacity: int) -> None:
        """Move into a larger room; a no-op if this one is large enough."""
        if capacity > self.capacity:
            for name, old in self.store.items():
                room = old.new_zeros(old.shape[0], capacity, *old.shape[2:])
                room[:, : self.length] = old[:, : self.length]
                self.store[name] = room

    def select(self, rows: Tensor) -> None:
        """Hold `rows` (N,) of the rows, in this order and as often as they are named."""
        for name, old in self.store.items():
            room = old.new_zeros(len(rows), *old.shape[1:])
            room[:, : self.length] = old[rows, : self.length]
            self.store[name] = room

    def committed(self) -> Entries:
        """The committed positions, as views."""
        return {name: store[:, : self.length] for name, store in self.store.items()}


class StaticSlot(LayerCache):
    """One layer's cache, written at a position that is a tensor and shown in its full capacity."""

    def __init__(self, of: LayerCache, position: Tensor) -> None:
        """Share the storage of `of`; `position` (1,) int64 is where the next token goes."""
        self.store, self.length = of.store, of.length
        self.position = position

    def extend(self, new: Entries) -> Entries:
        """Write `new` (B, 1, ...) in place; return everything, what is not yet written included.

        Nothing can be refused here: a position past the capacity is the caller's to prevent.
        """
        for name, tensor in new.items():
            self.store[name].index_copy_(1, self.position, tensor.to(self.store[name].dtype))
        return self.store


class LookedUp(LayerCache):
    """A cache whose entries do not lie in rows, so that it must be asked to attend itself."""

    def look(
        self, attn: "GroupedAttention | MLAttention", x: Tensor, context: "AttentionContext"
    ) -> Tensor:
        """What attention says (B, T, dim) to `x` (B, T, dim), whose entries are taken in."""
        raise NotImplementedError


class KVCache:
    """The cache of a whole network: one `LayerCache` per prelude block, per loop, per coda block.

    Where cfg.kv shares keys between loops, all loops have one slot. The number of loops is fixed
    by the first call that fills it. Keys of padded positions are remembered in `valid`.
    """

    def __init__(
        self,
        cfg: MythosConfig,
        batch: int,
        capacity: int,
        *,
        n_loops: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Preallocate for `batch` rows of up to `capacity` positions.

        Raises:
            CacheError: If `batch` or `capacity` is not positive, or `capacity` exceeds the
                config's max_seq_len.
        """
        if batch < 1 or capacity < 1:
            raise CacheError(f"batch ({batch}) and capacity ({capacity}) must be >= 1")
        if capacity > cfg.max_seq_len:
            raise CacheError(
                f"capacity is {capacity}, the model's max_seq_len is {cfg.max_seq_len}; ask for "
                "less, or raise the field"
            )
        self.widths, self.loop_widths = cfg.cache_widths, cfg.loop_widths
        self.shape = network_shape(cfg)
        self.shared = cfg.kv != "per_loop"
        self.batch, self.capacity, self.length = batch, capacity, 0
        self.device, self.dtype = device, dtype
        self.valid: Tensor | None = None
        self.prelude = [self._slot() for _ in range(cfg.prelude_layers)]
        self.coda = [self._slot() for _ in range(cfg.coda_layers)]
        self.recurrent: list[LayerCache] = []
        self.n_loops: int | None = None
        if n_loops is not None:
            self.fix_loops(n_loops)

    def _slot(self, widths: Mapping[str, tuple[int, ...]] | None = None) -> LayerCache:
        return LayerCache(
            widths or self.widths, self.batch, self.capacity, device=self.device, dtype=self.dtype
        )

    def fix_loops(self, n_loops: int) -> None:
        """Settle how many loops this cache serves.

        Raises:
            CacheError: If it already serves another number.
        """
        if self.n_loops is None or (self.length == 0 and self.n_loops != n_loops):
            self.n_loops = n_loops
            wanted = 1 if self.shared else n_loops
            self.recurrent = [
                *self.recurrent[:wanted],
                *(self._slot(self.loop_widths) for _ in range(wanted - len(self.recurrent))),
            ]
        elif self.n_loops != n_loops:
            raise CacheError(
                f"this cache was filled with {self.n_loops} loops, the call asks for {n_loops}; "
                "use a new cache, or the same number of loops"
            )

    def check(self, cfg: MythosConfig, batch: int, like: Tensor) -> None:
        """Refuse a cache that was made for something else.

        Raises:
            CacheError: Naming what differs.
        """
        if self.shape != network_shape(cfg):
            differs = {k: (v, network_shape(cfg)[k]) for k, v in self.shape.items()}
            shown = {k: pair for k, pair in differs.items() if pair[0] != pair[1]}
            raise CacheError(
                f"this cache belongs to another config: (cache, model) differ in {shown}; "
                "make one with model.new_cache(batch, capacity)"
            )
        if batch != self.batch:
            raise CacheError(
                f"this cache holds {self.batch} rows, the input has {batch}; use a new cache, or "
                "the same rows"
            )
        for _, slot in self.slots():
            slot.check(like)

    def slots(self) -> Iterator[tuple[str, LayerCache]]:
        """Every layer's cache with the name it has in a dict cache."""
        for i, slot in enumerate(self.prelude):
            yield f"prelude_{i}", slot
        for t, slot in enumerate(self.recurrent):
            yield f"recurrent_loop_{t}", slot
        for i, slot in enumerate(self.coda):
            yield f"coda_{i}", slot

    def advance(self, count: int) -> None:
        """Commit the `count` positions that every layer has written."""
        for _, slot in self.slots():
            slot.advance(count)
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget positions from `length` on.

        Raises:
            CacheError: If there are fewer positions than that.
        """
        if not 0 <= length <= self.length:
            raise CacheError(f"cannot truncate a cache of {self.length} positions to {length}")
        for _, slot in self.slots():
            slot.length = length
        self.length = length
        self.valid = None if self.valid is None or not length else self.valid[:, :length]

    def grow(self, capacity: int) -> None:
        """Make room for at least `capacity` positions."""
        if capacity > self.capacity:
            self.capacity = capacity
            for _, slot in self.slots():
                slot.grow(capacity)

    def select(self, rows: Tensor) -> None:
        """Hold `rows` (N,) int64 of the rows, in this order, as beam search reorders its beams."""
        for _, slot in self.slots():
            slot.select(rows)
        self.batch = len(rows)
        self.valid = None if self.valid is None else self.valid[rows]

    def mark(self, valid: Tensor | None, total: int) -> None:
        """Remember which of the first `total` keys are real; (B, total), None: all of them."""
        self.valid = None if valid is None else valid[:, :total].clone()

    @property
    def nbytes(self) -> int:
        """Bytes allocated, used or not."""
        return sum(
            t.numel() * t.element_size() for _, slot in self.slots() for t in slot.store.values()
        )


def network_shape(cfg: MythosConfig) -> dict[str, object]:
    """The config's fields that a cached number depends on, by name."""
    fields = ("dim", "n_heads", "attn_type", "kv", "prelude_layers", "coda_layers", "rope_theta")
    shape = {name: getattr(cfg, name) for name in (*fields, "core_layers")}
    return {**shape, "entries": cfg.cache_widths}
