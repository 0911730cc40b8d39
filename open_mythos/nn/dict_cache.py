"""The plain dict as a cache: wrapped once at the border, so that no layer has to understand it.

A caller's dict gets one entry per layer and loop, `prelude_i`, `recurrent_loop_t`, `coda_i`, each
a dict of tensors with the length in axis 1. The entries are views of a preallocated cache that
they carry along; a dict that was copied, or whose tensors were replaced, is read anew from them.
Plain entries do not tell which positions are padding: give the whole attention_mask with them.
"""

from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CacheError
from open_mythos.nn.cache import Entries, KVCache, LayerCache


LEAST_ROOM = 64  # positions allocated at first; doubled when they run out

DictCache = MutableMapping[str, Any]
Widths = Mapping[str, tuple[int, ...]]  # entry name -> shape of one position


class LayerEntry(dict[str, Tensor]):
    """One layer's entry of a dict cache: tensors, and the cache whose views they are."""

    slot: LayerCache
    owner: "KVCache | None"

    def __init__(self, slot: LayerCache, owner: "KVCache | None" = None) -> None:
        """Publish the committed positions of `slot`."""
        super().__init__(slot.committed())
        self.slot, self.owner = slot, owner

    def intact(self) -> bool:
        """Whether the tensors are still the views of the slot's whole content."""
        return all(
            name in self
            and self[name].data_ptr() == store.data_ptr()
            and self[name].shape[:2] == (store.shape[0], self.slot.length)
            for name, store in self.slot.store.items()
        )


def _room(needed: int) -> int:
    room = LEAST_ROOM
    while room < needed:
        room *= 2
    return room


def open_cache(
    given: "KVCache | DictCache | None", cfg: MythosConfig, ids: Tensor, like: Tensor
) -> KVCache | None:
    """The cache behind what a caller gave, checked against the model and the input.

    Args:
        given: A `KVCache`, a dict, or None.
        cfg: The model's config.
        ids: (B, T) of the call.
        like: A tensor with the model's device and dtype.

    Raises:
        CacheError: If it is neither, or belongs to something else.
    """
    if given is None:
        return None
    if isinstance(given, KVCache):
        given.check(cfg, ids.shape[0], like)
        return given
    if not isinstance(given, dict):
        raise CacheError(
            f"kv_cache is a {type(given).__name__}; give model.new_cache(batch, capacity), or an "
            "empty dict"
        )
    return open_dict(given, cfg, ids.shape[0], ids.shape[1], like=like)


def open_dict(entries: DictCache, cfg: MythosConfig, batch: int, new: int, like: Tensor) -> KVCache:
    """The cache behind a dict, with room for `new` more positions.

    Args:
        entries: The caller's dict; empty on the first call.
        cfg: The model's config.
        batch: Rows of the input.
        new: Positions of the input.
        like: A tensor with the model's device and dtype.

    Raises:
        CacheError: If the entries do not fit the model or each other.
    """
    cache = _owner(entries)
    if cache is None:
        cache = _read(entries, cfg, batch, new, like)
    cache.check(cfg, batch, like)
    needed = cache.length + new
    if needed > cache.capacity:
        cache.grow(min(_room(needed), cfg.max_seq_len))
    return cache


def publish(cache: KVCache, entries: DictCache) -> None:
    """Show the committed state of `cache` in the caller's dict, in place."""
    for key, slot in cache.slots():
        entries[key] = LayerEntry(slot, cache)


def _owner(entries: DictCache) -> KVCache | None:
    owners = [e.owner for e in entries.values() if isinstance(e, LayerEntry) and e.intact()]
    if not owners or owners[0] is None or any(owner is not owners[0] for owner in owners):
        return None
    slots = dict(owners[0].slots())
    whole = len(owners) == len(entries) and set(slots) == set(entries)
    return owners[0] if whole and all(entries[k].slot is s for k, s in slots.items()) else None


def _read(entries: DictCache, cfg: MythosConfig, batch: int, new: int, like: Tensor) -> KVCache:
    """A cache with the content of a dict that somebody else filled, changed or copied."""
    loops = sum(key.startswith("recurrent_loop_") for key in entries)
    length = _length(entries)
    room = min(_room(length + new), max(cfg.max_seq_len, 1))
    cache = KVCache(cfg, batch, max(room, length), device=like.device, dtype=like.dtype)
    if not entries:
        return cache
    cache.fix_loops(max(loops, 1))
    if cfg.kv != "per_loop":  # one entry serves any number of loops: the call settles it
        cache.n_loops = None
    expected = {key for key, _ in cache.slots()}
    if expected != set(entries) or not loops:
        odd = sorted(expected ^ set(entries)) or ["recurrent_loop_0", "..."]
        raise CacheError(
            f"the kv_cache dict does not fit this model: check the entries {odd}, or give an "
            "empty dict"
        )
    for key, slot in cache.slots():
        _fill(slot, key, entries[key], batch)
    cache.advance(length)
    known = [e.owner.valid for e in entries.values() if isinstance(e, LayerEntry) and e.owner]
    if known and known[0] is not None:  # a branch of a padded cache
        cache.mark(known[0], length)
    return cache


def _length(entries: DictCache) -> int:
    lengths = set()
    for key, entry in entries.items():
        if not isinstance(entry, dict) or not all(isinstance(t, Tensor) for t in entry.values()):
            raise CacheError(
                f"kv_cache[{key!r}] is no dict of tensors; give an empty dict and let the model "
                "fill it"
            )
        lengths |= {t.shape[1] if t.dim() > 1 else 0 for t in entry.values()}
    if len(lengths) > 1:
        raise CacheError(
            f"the kv_cache dict holds entries of different lengths: {sorted(lengths)}; cut them "
            "to one length, or give an empty dict"
        )
    return lengths.pop() if lengths else 0


def _fill(slot: LayerCache, key: str, entry: Entries, batch: int) -> None:
    for name, store in slot.store.items():
        if name not in entry or entry[name].shape[2:] != store.shape[2:]:
            found = {n: tuple(t.shape) for n, t in entry.items()}
            raise CacheError(
                f"kv_cache[{key!r}] holds {found}; this model caches {name!r} with "
                f"{tuple(store.shape[2:])} numbers per position"
            )
        if entry[name].shape[0] != batch:
            raise CacheError(
                f"kv_cache[{key!r}] holds {entry[name].shape[0]} rows, the input has {batch}; "
                "use a new dict, or the same rows"
            )
        store[:, : entry[name].shape[1]] = entry[name].detach()


def open_slot(
    entries: DictCache, key: str, widths: Widths, batch: int, new: int, like: Tensor
) -> LayerCache:
    """One layer's cache behind a dict entry, for layers that are called by hand.

    Raises:
        CacheError: If the entry does not fit the layer.
    """
    entry = entries.get(key)
    if isinstance(entry, LayerEntry) and entry.intact():
        slot = entry.slot
    else:
        length = 0 if entry is None else next(iter(entry.values())).shape[1]
        slot = LayerCache(widths, batch, _room(length + new), device=like.device, dtype=like.dtype)
        if entry is not None:
            _fill(slot, key, entry, batch)
            slot.length = length
    held = next(iter(slot.store.values())).shape[0]
    if held != batch:
        raise CacheError(
            f"kv_cache[{key!r}] holds {held} rows, the input has {batch}; use a new dict"
        )
    slot.check(like)
    if slot.length + new > slot.capacity:
        slot.grow(_room(slot.length + new))
    return slot


def close_slot(entries: DictCache, key: str, slot: LayerCache, new: int) -> None:
    """Commit `new` positions of a slot and show them in the dict."""
    slot.advance(new)
    entries[key] = LayerEntry(slot)
