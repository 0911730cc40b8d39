"""A cached pass in two parts: the first loops of one position at a time, the others of all at once.

Loops 1 .. d of a position look at loops 1 .. d of earlier positions alone, so they are the same
computation whether or not more loops follow: what a draft has computed of a position is kept, and
the whole pass goes on from loop d + 1. The coda saw a state that was not the last and starts anew.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from open_mythos.errors import InputError
from open_mythos.generate.decode import lockstep
from open_mythos.generate.static import StaticModel
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.block import run_blocks
from open_mythos.nn.cache import Entries, KVCache, LayerCache
from open_mythos.nn.loop.exiting import open_account
from open_mythos.nn.loop.recurrent import RecurrentBlock
from open_mythos.nn.loop.standing import Standing
from open_mythos.nn.rotary import rotary


class LoopedModel(StaticModel, Protocol):
    """A network whose parts can be run one by one."""

    @property
    def embed(self) -> nn.Embedding:
        """Ids to vectors."""
        ...

    @property
    def prelude(self) -> nn.ModuleList:
        """Blocks before the loop."""
        ...

    @property
    def recurrent(self) -> RecurrentBlock:
        """The loop."""
        ...

    @property
    def coda_input(self) -> nn.Module:
        """What stands between loop and coda."""
        ...

    @property
    def coda(self) -> nn.ModuleList:
        """Blocks behind it."""
        ...

    @property
    def norm(self) -> nn.Module:
        """The last norm."""
        ...

    @property
    def head(self) -> nn.Module:
        """Features to logits."""
        ...


def check_divisible(model: LoopedModel, n_loops: int, first: int) -> None:
    """Refuse networks whose pass cannot be taken apart without changing what it says.

    Raises:
        InputError: Saying why.
    """
    cfg = model.cfg
    if not 1 <= first < n_loops:
        raise InputError(
            f"a draft of {first} loops for passes of {n_loops}; it must take at least 1, and fewer "
            "than the pass"
        )
    if cfg.readout != "last":
        raise InputError(
            f"readout is {cfg.readout!r}: what is read after {first} loops is no part of what is "
            "read after all; drafts need readout 'last'"
        )
    if cfg.kv == "last":
        raise InputError(
            "kv is 'last': several positions at once see other keys than one after the other, so "
            "that a draft could not be verified; drafts need kv 'per_loop' or 'first'"
        )
    assert isinstance(model, nn.Module)
    if lockstep(model):
        raise InputError("other ranks have a part in every pass; drafts need a model on one device")


class PartialPass:
    """Positions behind a cache, some loops deep; one row.

    Attributes:
        cache: What was read before; `finish` adds to it.
    """

    def __init__(self, model: LoopedModel, cache: KVCache, n_loops: int, first: int) -> None:
        """Passes of `n_loops` loops, the `first` of which `begin` runs.

        Raises:
            InputError: If the network's passes cannot be taken apart.
        """
        check_divisible(model, n_loops, first)
        self.cache, self._model, self._first = cache, model, first
        cache.fix_loops(n_loops)
        self._constants = model.recurrent.constants(n_loops, model.embed.weight)
        self._standing: list[Standing] = []

    def begin(self, token: Tensor, *, say: bool = True) -> Tensor | None:
        """The first loops of one more position.

        Args:
            token: (1,) int64.
            say: Whether to read out what they say: logits (1, vocab). The coda then sees what it
                saw of earlier such positions.
        """
        model, cache = self._model, self.cache
        where, context = self._view(cache.length + len(self._standing), 1)
        x = run_blocks(model.prelude, model.embed(token.unsqueeze(1)), context, cache.prelude)
        h, e = model.recurrent.begin(x, where)
        h = model.recurrent.injection.spread(h)
        now = self._loops(Standing(h, e, open_account(model.cfg, h)), 0, self._first, context)
        self._standing.append(now)
        _advance([*cache.prelude, *self._slots(0, self._first)], 1)
        return self._say(now, context)[:, -1] if say else None

    def finish(self) -> Tensor:
        """Logits (n, vocab) of the n positions begun, after all loops; they are then cached."""
        cache, count = self.cache, len(self._standing)
        _, context = self._view(cache.length, count)
        for slot in cache.coda:
            slot.length = cache.length
        h, e = (torch.cat([getattr(s, part) for s in self._standing], dim=1) for part in ("h", "e"))
        shared: Entries | None = None
        if self._model.cfg.kv == "first":
            shared = cache.recurrent[0].committed()
        now = Standing(h, e, open_account(self._model.cfg, h), None, shared)
        loops = len(self._constants.ticks)
        now = self._loops(now, self._first, loops, context)
        if self._model.cfg.kv == "per_loop":
            _advance(self._slots(self._first, loops), count)
        logits = self._say(now, context)
        cache.length += count
        self._standing = []
        return logits[0]

    def _loops(self, now: Standing, start: int, end: int, context: AttentionContext) -> Standing:
        loop, given = self._model.recurrent, self._constants
        for tick, t in zip(given.ticks[start:end], range(start, end), strict=True):
            slot = self.cache.recurrent[t if self._model.cfg.kv == "per_loop" else 0]
            now, _ = loop.advance(
                now, tick, context, slot, None, given.coefficients, observed=False
            )
        return now

    def _say(self, now: Standing, context: AttentionContext) -> Tensor:
        """Logits (1, n, vocab) of what can be read now."""
        model = self._model
        x = model.coda_input(model.recurrent.injection.gathered(now.readout.value))
        x = run_blocks(model.coda, x, context, self.cache.coda)
        _advance(self.cache.coda, x.shape[1])
        logits: Tensor = model.head(model.norm(x))
        return logits

    def _slots(self, start: int, end: int) -> Sequence[LayerCache]:
        """The caches of some loops, each once."""
        if self._model.cfg.kv == "per_loop":
            return self.cache.recurrent[start:end]
        return self.cache.recurrent

    def _view(self, start: int, count: int) -> tuple[Tensor, AttentionContext]:
        cfg = self._model.cfg
        where = torch.arange(start, start + count, device=self._model.embed.weight.device)
        return where, AttentionContext(rotary(where, cfg.rope_dim, cfg.rope_theta))


def _advance(slots: Sequence[LayerCache], count: int) -> None:
    for slot in slots:
        slot.advance(count)
