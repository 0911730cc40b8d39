"""The loop called by itself, as in open-mythos 0.5.0: complex table, dict cache."""

from typing import TYPE_CHECKING

from torch import Tensor

from open_mythos.errors import CacheError
from open_mythos.nn.attention.context import legacy_context
from open_mythos.nn.dict_cache import DictCache, close_slot, open_slot


if TYPE_CHECKING:
    from open_mythos.nn.loop.recurrent import RecurrentBlock


def loop_by_hand(
    loop: "RecurrentBlock",
    h: Tensor,
    e: Tensor,
    seen: tuple[Tensor, Tensor | None],
    n_loops: int,
    kv_cache: DictCache | None,
) -> Tensor:
    """The readout (B, S, dim) of `n_loops` loops, extending the dict's entries if there is one.

    Args:
        loop: The loop.
        h: (B, S, dim), the state at the start.
        e: (B, S, dim), the input that every loop sees.
        seen: A complex table whose first S rows are the positions of `h`; and a mask or None.
        n_loops: Loops to run.
        kv_cache: Dict with one entry `recurrent_loop_t` per loop, extended in place.

    Raises:
        CacheError: If the dict was filled with another number of loops.
    """
    batch, length, _ = h.shape
    if kv_cache is None:
        return loop.run(h, e, legacy_context(*seen, length, 0), n_loops)[0]
    keys = [f"recurrent_loop_{t}" for t in range(loop.cfg.loop_slots(n_loops))]
    held = sum(key.startswith("recurrent_loop_") for key in kv_cache)
    if held not in (0, len(keys)):
        raise CacheError(
            f"this kv_cache was filled with {held} loops, the call asks for {n_loops}; use a "
            "new dict, or the same number of loops"
        )
    widths = loop.cfg.loop_widths
    slots = [open_slot(kv_cache, key, widths, batch, length, like=h) for key in keys]
    out, _ = loop.run(h, e, legacy_context(*seen, length, slots[0].length), n_loops, slots)
    for key, slot in zip(keys, slots, strict=True):
        close_slot(kv_cache, key, slot, length)
    return out
