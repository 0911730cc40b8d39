"""Slots: an attention of vLLM for every layer, those of the core once per loop.

vLLM keeps keys and values by attention layer, and knows nothing of loops: what is one layer of ours
is as many of vLLM's as it runs loops, with one set of weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.cache import LookedUp


if TYPE_CHECKING:
    from open_mythos.nn.attention.gqa import GroupedAttention
    from open_mythos.nn.attention.mla import MLAttention

# Queries (N, heads * d), keys and values (N, kv_heads * d) of N tokens of any requests to what
# each sees (N, heads * d); whose token is whose, vLLM knows by itself.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Numbers:
    """Numbers of a network's slots, in the order in which a token passes them.

    Attributes:
        prelude: Of the prelude's layers.
        loops: Of the core's layers, by loop.
        coda: Of the coda's layers.
    """

    prelude: range
    loops: tuple[range, ...]
    coda: range

    @property
    def count(self) -> int:
        """Slots of all."""
        return self.coda.stop


def number_slots(cfg: MythosConfig, n_loops: int) -> Numbers:
    """The slots of `n_loops` loops: each layer of each loop has its own."""
    first, width = cfg.prelude_layers, cfg.core_layers
    starts = [first + t * width for t in range(n_loops)]
    last = first + n_loops * width
    return Numbers(
        prelude=range(first),
        loops=tuple(range(start, start + width) for start in starts),
        coda=range(last, last + cfg.coda_layers),
    )


class Slot(LookedUp):
    """One layer in one loop: its keys and values are vLLM's, which attends."""

    def __init__(self, attend: Attend) -> None:
        """Ask `attend`."""
        self.store, self.length, self._attend = {}, 0, attend

    def look(
        self, attn: "GroupedAttention | MLAttention", x: Tensor, context: AttentionContext
    ) -> Tensor:
        """What attention says (1, N, dim) to N tokens (1, N, dim) of any requests."""
        q, new = attn.project(x, context.rotary)
        rows = x.shape[1]
        parts = (part.reshape(rows, -1) for part in (q, new["k"], new["v"]))
        said: Tensor = attn.wo(self._attend(*parts).view(1, rows, -1))
        return said


class LoopSlot(Slot):
    """The core's layers in one loop."""

    def __init__(self, layers: Sequence[Attend]) -> None:
        """One `Attend` per layer; a core of one layer is that layer's slot."""
        super().__init__(layers[0])
        self._layers = [Slot(attend) for attend in layers]

    def layer(self, index: int) -> Slot:
        """The slot of one layer."""
        return self._layers[index]


@dataclass(frozen=True)
class Slots:
    """A network's cache, as far as a pass asks: by part, then by layer or by loop."""

    prelude: Sequence[Slot]
    recurrent: Sequence[LoopSlot]
    coda: Sequence[Slot]

    @classmethod
    def of(cls, numbers: Numbers, attends: Sequence[Attend]) -> "Slots":
        """Those of a list of attentions in the order of their numbers."""
        return cls(
            prelude=[Slot(attends[i]) for i in numbers.prelude],
            recurrent=[LoopSlot([attends[i] for i in loop]) for loop in numbers.loops],
            coda=[Slot(attends[i]) for i in numbers.coda],
        )
