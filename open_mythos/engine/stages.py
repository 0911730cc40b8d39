"""Stages: prelude, loop and coda for the rows of a call, tensors in and tensors out."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from open_mythos.engine.call import BlockTables, Call
from open_mythos.engine.departing import Departing
from open_mythos.engine.lanes import Accounts, Lanes, Party
from open_mythos.engine.pages import Pages, View, nowhere
from open_mythos.engine.settings import EngineConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.block import run_blocks
from open_mythos.nn.loop.constants import Tick
from open_mythos.nn.loop.exiting import Leave
from open_mythos.nn.loop.readout import LastState, Readout
from open_mythos.nn.rotary import Rotary, rotary
from open_mythos.ops.settle import settle


class Stages:
    """Everything of an engine that is a tensor: pages, lanes, tables, what the loops share.

    A position is one row of every call, (N, 1, dim), whoever it belongs to: prompts and new tokens
    pass through the same matrices together. What a stage does follows from the numbers of its call,
    from shapes, and from the tables here, so that it can be captured and replayed.

    Attributes:
        model: The network, in evaluation mode.
        n_loops: Most loops of a request.
        early: Whether a position that has left needs no more loops: what it shows to others does
            not change any more.
    """

    def __init__(self, model: OpenMythos, settings: EngineConfig) -> None:
        """Allocate everything that `settings` says."""
        self.model, self.settings = model, settings
        cfg, weight = model.cfg, model.embed.weight.detach()
        self.n_loops = settings.n_loops or cfg.max_loop_iters
        self.early = cfg.halted == "freeze" or cfg.kv == "first"
        size = settings.block_size
        self.pages = Pages(cfg, settings.blocks, size, self.n_loops, weight)
        width = cfg.dim * model.recurrent.injection.streams
        self.lanes = Lanes(cfg, settings.lanes, width, weight)
        longest = min(cfg.max_seq_len, settings.blocks * size)
        self.tables = BlockTables(settings.rows, -(-longest // size), weight.device)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over what all loops share from the weights, after those have changed."""
        loop = self.model.recurrent
        self.constants = loop.constants(self.n_loops, self.model.embed.weight).copy()
        ticks = self.constants.ticks
        signals = [tick.signal for tick in ticks if tick.signal is not None]
        scales = [tick.scale for tick in ticks if tick.scale is not None]
        self._signals = torch.stack(signals).unsqueeze(1) if signals else None
        self._scales = torch.stack(scales).unsqueeze(1) if scales else None

    def enter(self, call: Call) -> Tensor:
        """Embed positions, run the prelude, and put them where the loop starts; (N, 1, dim)."""
        model = self.model
        where = call.positions.unsqueeze(1)
        angles = rotary(where, model.cfg.rope_dim, model.cfg.rope_theta)
        view = self._view(call)
        slots = [self.pages.prelude(i, view) for i in range(len(model.prelude))]
        x = model.embed(call.tokens).unsqueeze(1)
        x = run_blocks(model.prelude, x, AttentionContext(angles), slots)
        h, e = model.recurrent.begin(x, where)
        h = model.recurrent.injection.spread(h)
        self.lanes.open(call.lanes, h=h, e=e, cos=angles.cos, sin=angles.sin)
        return e

    def loop(self, call: Call, parties: Sequence[Party], turns: int) -> Tensor:
        """Run loops; (N,) int64, after which of them each row left, 0 where it is going.

        A row that has left while others go on writes nowhere, and what it said is kept. What it
        wrote last is shown to deeper loops at once where others of its request are in the call.
        """
        view, context = self._view(call), self._context(call)
        h, e = (self.lanes.take(name, call.lanes) for name in ("h", "e"))
        depth = at = call.loops
        gone, write = torch.zeros_like(depth), view.write
        beyond = nowhere(self.settings.blocks, self.settings.block_size)
        noted = (
            self.lanes.take("read", call.lanes).squeeze(1)
            if self.notes(p.leave for p in parties)
            else None
        )
        departing = self._departs(parties)
        for turn in range(turns):
            account = (
                Departing(self.lanes, call.lanes, parties[0], h, h)
                if departing
                else self._accounts(call, parties, h)
            )
            h, told, _ = self.model.recurrent.turn(
                h,
                e,
                cast("Any", account),
                self._tick(call, at, departing or (depth + 1 >= call.ends).unsqueeze(1)),
                context,
                self.pages.loop(at, replace(view, write=write)),
                coefficients=self.constants.coefficients,
                observed=False,
            )
            accounts, before = cast("Accounts | Departing", told), gone
            gone, depth, at, write = settle(
                accounts.value,
                self.lanes.tables["value"],
                call.lanes,
                (gone, depth, call.ends, view.write),
                accounts.left if self.early else None,
                beyond=beyond,
                deepest=self.n_loops - 1,
            ).unbind()
            if noted is not None and accounts.left is not None:
                noted = torch.where((noted == 0) & accounts.left.squeeze(1), depth, noted)
            if self.early and call.pieces and turn + 1 < turns:
                self.show(call, torch.where(before == 0, gone, 0))
        self.lanes.put("h", call.lanes, h)
        if noted is not None:
            self.lanes.put("read", call.lanes, noted.unsqueeze(1))
        self.lanes.clear()
        return gone

    def show(self, call: Call, gone: Tensor) -> None:
        """Show deeper loops what rows wrote last that have left after `gone` (N,) > 0 loops."""
        self.pages.deepen_rows(call.numbers[2], gone, call.ends)

    def fall(self, call: Call, leave: Leave | None, loop: int, turns: int) -> Tensor:
        """`loop` of pieces that leave in one way; who has left shows it to deeper loops at once."""
        gone = self.loop(call, [Party(leave, loop)], turns)
        if self.early:
            self.show(call, gone)
        return gone

    def straight(self, call: Call, loops: int) -> Tensor:
        """`enter`, `loop` and `coda` of rows that all run so many loops, (N, 1, dim).

        Where nobody leaves early, whatever tells rows apart is left out: no lanes, no accounts.
        """
        model, recurrent, view = self.model, self.model.recurrent, self._view(call)
        where = call.positions.unsqueeze(1)
        context = AttentionContext(rotary(where, model.cfg.rope_dim, model.cfg.rope_theta))
        slots = [self.pages.prelude(i, view) for i in range(len(model.prelude))]
        x = run_blocks(model.prelude, model.embed(call.tokens).unsqueeze(1), context, slots)
        h, e = recurrent.begin(x, where)
        h = recurrent.injection.spread(h)
        readout: Readout = LastState(h)
        for t, tick in enumerate(self.constants.ticks[:loops]):
            h, readout, _ = recurrent.turn(
                h,
                e,
                readout,
                replace(tick, last=t + 1 == loops),
                context,
                self.pages.loop_at(t, view),
                coefficients=self.constants.coefficients,
                observed=False,
            )
        x = model.coda_input(recurrent.injection.gathered(readout.value))
        slots = [self.pages.coda(i, view) for i in range(len(model.coda))]
        return run_blocks(model.coda, x, context, slots)

    def notes(self, leaves: Iterable[Leave | None]) -> bool:
        """Whether to note when rows left: they may, and all loops are run none the less."""
        halting = self.model.cfg.readout != "last"
        return not self.early and (halting or any(leave is not None for leave in leaves))

    def read(self, lanes: Tensor) -> Tensor:
        """What was noted of `lanes` (n,): loops after which each left, 0 where it did not; (n,)."""
        return self.lanes.take("read", lanes).squeeze(1)

    def coda(self, call: Call) -> Tensor:
        """What the coda says (N, 1, dim) of positions that have left the loop."""
        model, view = self.model, self._view(call)
        x = model.recurrent.injection.gathered(self.lanes.take("value", call.lanes))
        x = model.coda_input(x)
        slots = [self.pages.coda(i, view) for i in range(len(model.coda))]
        return run_blocks(model.coda, x, self._context(call), slots)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, vocab) of what the coda says (n, 1, dim)."""
        said: Tensor = self.model.head(self.model.norm(x))
        return said.squeeze(1)

    def _view(self, call: Call) -> View:
        return call.view(self.tables, self.pages)

    def _context(self, call: Call) -> AttentionContext:
        cos, sin = (self.lanes.take(name, call.lanes) for name in ("cos", "sin"))
        return AttentionContext(Rotary(cos, sin))

    def _tick(self, call: Call, loops: Tensor, last: bool | Tensor) -> Tick:
        """What tells the rows' loops apart; what they have of their own is that of the first."""
        signals = None if self._signals is None else self._signals.index_select(0, loops)
        scales = None if self._scales is None else self._scales.index_select(0, loops)
        own = self.constants.ticks[call.runs[0].loop].own if call.runs else ()
        return Tick(signals, scales, last, own)

    def _departs(self, parties: Sequence[Party]) -> bool:
        """Whether rows are read as they leave, all in one way, and are out of the loop then."""
        alike = len(parties) == 1 and parties[0].rows is None
        return self.early and alike and self.model.cfg.readout == "last"

    def _accounts(self, call: Call, parties: Sequence[Party], before: Tensor) -> Accounts:
        gated = any(party.leave.exit.gated for party in parties if party.leave is not None)
        return Accounts(
            lanes=self.lanes,
            index=call.lanes,
            parties=parties,
            before=before,
            asks=gated or self.model.cfg.readout != "last",
            value=torch.empty_like(before),
            left=torch.zeros_like(call.lanes, dtype=torch.bool).unsqueeze(1),
        )
