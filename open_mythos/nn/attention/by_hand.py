"""One attention layer called by itself, as in open-mythos 0.5.0: complex table, dict cache."""

from typing import Protocol

from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.context import AttentionContext, legacy_context
from open_mythos.nn.cache import Entries
from open_mythos.nn.dict_cache import DictCache, close_slot, open_slot
from open_mythos.nn.rotary import Rotary


class AttentionLayer(Protocol):
    """What a block needs of an attention layer."""

    cfg: MythosConfig

    def project(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Entries]:
        """Queries, and the entries that a cache keeps."""
        ...

    def queries(self, x: Tensor, rotary: Rotary) -> Tensor:
        """Queries alone."""
        ...

    def mix(self, q: Tensor, seen: Entries, context: AttentionContext) -> Tensor:
        """Attend to all entries and map back to the stream."""
        ...


def attend_by_hand(
    layer: AttentionLayer,
    x: Tensor,
    freqs_cis: Tensor,
    mask: Tensor | None,
    kv_cache: DictCache | None,
    cache_key: str,
) -> Tensor:
    """Project, extend the dict's entry if there is one, and mix.

    Args:
        layer: The attention layer.
        x: (B, T, dim).
        freqs_cis: Complex table whose first T rows are the positions of `x`.
        mask: Additive or boolean; None hides nothing.
        kv_cache: Dict extended in place under `cache_key`, or None.
        cache_key: The layer's entry.
    """
    batch, length, _ = x.shape
    if kv_cache is None:
        context = legacy_context(freqs_cis, mask, length, past=0)
        q, new = layer.project(x, context.rotary)
        return layer.mix(q, new, context)
    slot = open_slot(kv_cache, cache_key, layer.cfg.cache_widths, batch, length, like=x)
    context = legacy_context(freqs_cis, mask, length, past=slot.length)
    q, new = layer.project(x, context.rotary)
    out = layer.mix(q, slot.extend(new), context)
    close_slot(kv_cache, cache_key, slot, length)
    return out
