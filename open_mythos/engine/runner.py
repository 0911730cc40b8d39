"""Runner: the three stages of the network, each for the positions that a plan names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from open_mythos.engine.call import Call, places
from open_mythos.engine.flight import Run
from open_mythos.engine.lanes import Accounts, Lanes, Party, counted
from open_mythos.engine.pages import Pages
from open_mythos.engine.settings import EngineConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.block import run_blocks
from open_mythos.nn.loop.constants import Tick
from open_mythos.nn.loop.exiting import Leave
from open_mythos.nn.rotary import Rotary, rotary
from open_mythos.nn.upload import upload


@dataclass(frozen=True)
class Landing:
    """What was said of positions that have been through the network.

    Attributes:
        logits: (n, vocab), of the runs that end with their request's last token, in order; None
            where there are none: all were pieces of prompts.
        whole: By track, those of all positions of its run, (S, vocab), where they were asked for.
    """

    logits: Tensor | None
    whole: dict[int, Tensor]


class Runner:
    """Tensors of an engine: pages, lanes, and what the model's loops have in common.

    A position is one row of every call, (N, 1, dim), whoever it belongs to: prompts and new tokens
    pass through the same matrices together. Attention alone takes the positions of one request
    together where there are several.

    Attributes:
        model: The network, in evaluation mode.
        n_loops: Most loops of a request.
        early: Whether a position that has left needs no more loops: what it shows to others does
            not change any more.
    """

    def __init__(self, model: OpenMythos, settings: EngineConfig) -> None:
        """Allocate everything that `settings` says."""
        self.model, self.settings = model, settings
        cfg, weight = model.cfg, model.embed.weight
        self.n_loops = settings.n_loops or cfg.max_loop_iters
        self.early = cfg.halted == "freeze" or cfg.kv == "first"
        self.device = weight.device
        self.pages = Pages(cfg, settings.blocks, settings.block_size, self.n_loops, weight.detach())
        width = cfg.dim * model.recurrent.injection.streams
        self.lanes = Lanes(cfg, settings.lanes, width, weight.detach())
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

    def enter(self, runs: Sequence[Run]) -> None:
        """Embed positions, run the prelude, and put them where the loop starts."""
        call, model = self._call(runs), self.model
        ids = call.column(lambda run: [run.track.tokens[at] for at in run.positions])
        where = call.column(lambda run: run.positions).unsqueeze(1)
        angles = rotary(where, model.cfg.rope_dim, model.cfg.rope_theta)
        view = call.view()
        slots = [self.pages.prelude(i, view) for i in range(len(model.prelude))]
        x = model.embed(ids).unsqueeze(1)
        x = run_blocks(model.prelude, x, AttentionContext(angles), slots)
        h, e = model.recurrent.begin(x, where)
        h = model.recurrent.injection.spread(h)
        self.lanes.open(call.lanes, h=h, e=e, cos=angles.cos, sin=angles.sin)

    def turn(self, runs: Sequence[Run]) -> list[list[bool]]:
        """One loop for positions in the loop; by run, which of them leave before their end."""
        loop = self.model.recurrent
        if loop.routers is None and loop.attentions is None:
            return self._turn(runs)
        # Loops with weights of their own: one call for those that share theirs.
        left: list[list[bool]] = [[] for _ in runs]
        rows = [self.model.cfg.loop_row(run.loop) for run in runs]
        for row in sorted(set(rows)):
            which = [i for i, own in enumerate(rows) if own == row]
            for i, leaving in zip(which, self._turn([runs[i] for i in which]), strict=True):
                left[i] = leaving
        return left

    def _turn(self, runs: Sequence[Run]) -> list[list[bool]]:
        call, loop = self._call(runs), self.model.recurrent
        loops = call.column(lambda run: [run.loop] * len(run.lanes))
        before = self.lanes.take("h", call.lanes)
        h, told, _ = loop.turn(
            before,
            self.lanes.take("e", call.lanes),
            cast("Any", self._accounts(call, before)),
            self._tick(call, loops),
            self._context(call),
            self.pages.loop(loops, call.view()),
            coefficients=self.constants.coefficients,
            observed=False,
        )
        accounts = cast("Accounts", told)
        self.lanes.put("h", call.lanes, h)
        self.lanes.put("value", call.lanes, accounts.value)
        leaves = self.model.cfg.readout != "last" or any(run.track.leave for run in runs)
        if not (self.early and leaves):
            return [[False] * len(run.lanes) for run in runs]
        return self._leaving(call, runs, accounts.left.flatten().tolist())

    def _leaving(self, call: Call, runs: Sequence[Run], flags: Sequence[bool]) -> list[list[bool]]:
        """The flags by run; what positions leave behind is shown in the loops that they skip."""
        size = self.settings.block_size
        by_track: dict[int, list[bool]] = {}
        shown: list[tuple[int, int, int]] = []
        for run, start in zip(call.runs, call.starts(), strict=True):
            leaving = list(flags[start : start + len(run.lanes)])
            by_track[run.track.id] = leaving
            if run.track.id >= 0:
                end = run.track.n_loops
                shown += [
                    (place, run.loop + 1, end)
                    for place, gone in zip(places(run, size), leaving, strict=True)
                    if gone
                ]
        self.pages.deepen(shown)
        return [by_track[run.track.id] for run in runs]

    def land(self, runs: Sequence[Run]) -> "Landing":
        """The coda for flights that have left the loop, and the logits that somebody reads."""
        call, model = self._call(runs), self.model
        view = call.view()
        x = model.recurrent.injection.gathered(self.lanes.take("value", call.lanes))
        slots = [self.pages.coda(i, view) for i in range(len(model.coda))]
        x = run_blocks(model.coda, x, self._context(call), slots)
        rows = {
            run.track.id: slice(start, start + len(run.lanes))
            for run, start in zip(call.runs, call.starts(), strict=True)
        }
        whole = {
            run.track.id: model.head(model.norm(x[rows[run.track.id]])).squeeze(1)
            for run in runs
            if run.track.whole
        }
        ends = [rows[run.track.id].stop - 1 for run in runs if run.speaks]
        if not ends:
            return Landing(None, whole)
        kept = x.index_select(0, upload(ends, self.device))
        return Landing(model.head(model.norm(kept)).squeeze(1), whole)

    # -- parts of a call -------------------------------------------------------------------------

    def _call(self, runs: Sequence[Run]) -> Call:
        return Call.of(runs, self.settings, self.device)

    def _context(self, call: Call) -> AttentionContext:
        cos, sin = (self.lanes.take(name, call.lanes) for name in ("cos", "sin"))
        return AttentionContext(Rotary(cos, sin))

    def _tick(self, call: Call, loops: Tensor) -> Tick:
        """What tells the rows' loops apart; what they have of their own is that of the first."""
        last = call.column(lambda run: [run.last] * len(run.lanes)).unsqueeze(1).bool()
        signals = None if self._signals is None else self._signals.index_select(0, loops)
        scales = None if self._scales is None else self._scales.index_select(0, loops)
        own = self.constants.ticks[next(run.loop for run in call.runs if run.track.id >= 0)].own
        return Tick(signals, scales, last, own)

    def _accounts(self, call: Call, before: Tensor) -> Accounts:
        """The accounts of the rows, those that are kept in one way together."""
        rows: dict[tuple[int, int], list[int]] = {}
        leaves: dict[int, Leave | None] = {}
        for run, start in zip(call.runs, call.starts(), strict=True):
            leave = run.track.leave
            leaves[id(leave)] = leave
            key = (id(leave), 0 if leave is None else counted(leave.exit, run.loop))
            rows.setdefault(key, []).extend(range(start, start + len(run.lanes)))
        parties = [
            Party(leaves[which], loop, None if len(rows) == 1 else upload(numbers, self.device))
            for (which, loop), numbers in rows.items()
        ]
        gated = any(leave.exit.gated for leave in leaves.values() if leave is not None)
        return Accounts(
            lanes=self.lanes,
            index=call.lanes,
            parties=parties,
            before=before,
            asks=gated or self.model.cfg.readout != "last",
            value=torch.empty_like(before),
            left=torch.zeros_like(call.lanes, dtype=torch.bool).unsqueeze(1),
        )
