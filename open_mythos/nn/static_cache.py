"""StaticCache: a KVCache seen in fixed shapes, so that a step can be captured once and replayed."""

import torch

from open_mythos.nn.cache import KVCache, StaticSlot
from open_mythos.nn.loop.constants import Constants
from open_mythos.nn.rotary import Rotary


class StaticCache:
    """A `KVCache` in fixed shapes, with everything that a step of decoding does not change.

    Attributes:
        whole: The cache whose storage this is; prompts are read into it.
        rotary: Tables of every position there is room for.
        constants: Of the loops; as many ticks as loops.
        position: (1,) int64, positions filled so far: the index of the next token.
    """

    def __init__(self, whole: KVCache, rotary: Rotary, constants: Constants) -> None:
        """Go on where `whole` is."""
        self.whole, self.rotary, self.constants = whole, rotary, constants
        self.position = torch.full_like(rotary.cos[0, :1], whole.length, dtype=torch.int64)
        self.prelude = [StaticSlot(slot, self.position) for slot in whole.prelude]
        self.recurrent = [StaticSlot(slot, self.position) for slot in whole.recurrent]
        self.coda = [StaticSlot(slot, self.position) for slot in whole.coda]
