"""Runner: the three stages of the network, each for the positions that a plan names."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from open_mythos.engine.call import BlockTables, Call, place
from open_mythos.engine.flight import Run
from open_mythos.engine.lanes import Accounts, Lanes, Party, counted
from open_mythos.engine.pages import Pages, View, nowhere
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


@dataclass(frozen=True)
class Turned:
    """What loops did.

    Attributes:
        turns: Loops that were run.
        left: By run and position, loops after which it left; 0 where it is going.
    """

    turns: int
    left: list[list[int]]


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
        longest = min(cfg.max_seq_len, settings.blocks * settings.block_size)
        self.tables = BlockTables(settings.rows, -(-longest // settings.block_size), self.device)
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
        where = call.positions.unsqueeze(1)
        angles = rotary(where, model.cfg.rope_dim, model.cfg.rope_theta)
        view = self._view(call)
        slots = [self.pages.prelude(i, view) for i in range(len(model.prelude))]
        x = model.embed(call.tokens).unsqueeze(1)
        x = run_blocks(model.prelude, x, AttentionContext(angles), slots)
        h, e = model.recurrent.begin(x, where)
        h = model.recurrent.injection.spread(h)
        self.lanes.open(call.lanes, h=h, e=e, cos=angles.cos, sin=angles.sin)

    def turn(self, runs: Sequence[Run]) -> "Turned":
        """One loop or more for positions in the loop, and who has left with which.

        Where nobody can leave early, as many as everybody has left; else one, or the settings'
        `stride`.
        """
        loop = self.model.recurrent
        if loop.routers is None and loop.attentions is None:
            turns = self._turns(runs)
            return Turned(turns, self._turn(runs, turns))
        # Loops with weights of their own: one call for those that share theirs.
        left: list[list[int]] = [[] for _ in runs]
        rows = [self.model.cfg.loop_row(run.loop) for run in runs]
        for row in sorted(set(rows)):
            which = [i for i, own in enumerate(rows) if own == row]
            for i, leaving in zip(which, self._turn([runs[i] for i in which], 1), strict=True):
                left[i] = leaving
        return Turned(1, left)

    def _leaves(self, runs: Sequence[Run]) -> bool:
        """Whether a position may leave before its end."""
        halting = self.model.cfg.readout != "last"
        return self.early and (halting or any(run.track.leave is not None for run in runs))

    def _turns(self, runs: Sequence[Run]) -> int:
        """Loops to run before anybody is asked who has left."""
        left = [run.track.n_loops - run.loop for run in runs]
        leaves = [run.track.leave for run in runs if run.track.leave is not None]
        if any(counted(leave.exit, 0) == 0 for leave in leaves):
            return 1
        if not self._leaves(runs):
            return min(left)
        # What leaves must be seen in the loops that follow by the rest of its piece.
        alone = all(len(run.lanes) == 1 for run in runs)
        return min(self.settings.stride, max(left)) if alone else 1

    def _turn(self, runs: Sequence[Run], turns: int) -> list[list[int]]:
        call = self._call(runs)
        gone = self._loop(call, turns)
        if not self._leaves(runs):
            return [
                [run.loop + turns if run.loop + turns == run.track.n_loops else 0] * len(run.lanes)
                for run in runs
            ]
        numbers = gone.tolist()
        size = self.settings.block_size
        left: dict[int, list[int]] = {}
        shown: list[tuple[int, int, int]] = []
        for run, start in zip(call.runs, call.starts, strict=True):
            left[run.track.id] = numbers[start : start + len(run.lanes)]
            shown += [
                (place(run.track, at, size), loops, run.track.n_loops)
                for at, loops in zip(run.positions, left[run.track.id], strict=True)
                if loops
            ]
        self.pages.deepen(shown)
        return [left[run.track.id] for run in runs]

    def _loop(self, call: Call, turns: int) -> Tensor:
        """Run loops; (N,) int64, after which of them each row left, 0 where it is going.

        A row that has left while others go on writes nowhere, and what it said is kept.
        """
        view, context = self._view(call), self._context(call)
        h, e, value = (self.lanes.take(name, call.lanes) for name in ("h", "e", "value"))
        depth, gone = call.loops, torch.zeros_like(call.loops)
        beyond = nowhere(self.settings.blocks, self.settings.block_size)
        for turn in range(turns):
            last, at = depth + 1 >= call.ends, depth.clamp(max=self.n_loops - 1)
            if turn:
                view = replace(view, write=torch.where(gone == 0, view.write, beyond))
            h, told, _ = self.model.recurrent.turn(
                h,
                e,
                cast("Any", self._accounts(call, h)),
                self._tick(call, at, last.unsqueeze(1)),
                context,
                self.pages.loop(at, view),
                coefficients=self.constants.coefficients,
                observed=False,
            )
            accounts, depth = cast("Accounts", told), depth + 1
            left = last | accounts.left.squeeze(1) if self.early else last
            value = torch.where((gone == 0)[:, None, None], accounts.value, value)
            gone = torch.where((gone == 0) & left, depth, gone)
        self.lanes.put("h", call.lanes, h)
        self.lanes.put("value", call.lanes, value)
        self.lanes.clear()
        return gone

    def land(self, runs: Sequence[Run]) -> "Landing":
        """The coda for flights that have left the loop, and the logits that somebody reads."""
        call, model = self._call(runs), self.model
        view = self._view(call)
        x = model.recurrent.injection.gathered(self.lanes.take("value", call.lanes))
        slots = [self.pages.coda(i, view) for i in range(len(model.coda))]
        x = run_blocks(model.coda, x, self._context(call), slots)
        rows = {
            run.track.id: slice(start, start + len(run.lanes))
            for run, start in zip(call.runs, call.starts, strict=True)
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
        self.tables.follow(runs)
        return Call.of(runs, self.settings, self.device)

    def _view(self, call: Call) -> View:
        return call.view(self.tables, self.settings.block_size)

    def _context(self, call: Call) -> AttentionContext:
        cos, sin = (self.lanes.take(name, call.lanes) for name in ("cos", "sin"))
        return AttentionContext(Rotary(cos, sin))

    def _tick(self, call: Call, loops: Tensor, last: Tensor) -> Tick:
        """What tells the rows' loops apart; what they have of their own is that of the first."""
        signals = None if self._signals is None else self._signals.index_select(0, loops)
        scales = None if self._scales is None else self._scales.index_select(0, loops)
        return Tick(signals, scales, last, self.constants.ticks[call.runs[0].loop].own)

    def _accounts(self, call: Call, before: Tensor) -> Accounts:
        """The accounts of the rows, those that are kept in one way together."""
        parties = [Party(None, 0)]
        if any(run.track.leave is not None for run in call.runs):
            parties = self._parties(call)
        gated = any(p.leave.exit.gated for p in parties if p.leave is not None)
        return Accounts(
            lanes=self.lanes,
            index=call.lanes,
            parties=parties,
            before=before,
            asks=gated or self.model.cfg.readout != "last",
            value=torch.empty_like(before),
            left=torch.zeros_like(call.lanes, dtype=torch.bool).unsqueeze(1),
        )

    def _parties(self, call: Call) -> list[Party]:
        rows: dict[tuple[int, int], list[int]] = {}
        leaves: dict[int, Leave | None] = {}
        for run, start in zip(call.runs, call.starts, strict=True):
            leave = run.track.leave
            leaves[id(leave)] = leave
            key = (id(leave), 0 if leave is None else counted(leave.exit, run.loop))
            rows.setdefault(key, []).extend(range(start, start + len(run.lanes)))
        if len(rows) == 1:  # fillers go along, whatever is thought of them
            ((which, loop),) = rows
            return [Party(leaves[which], loop)]
        return [
            Party(leaves[which], loop, upload(numbers, self.device))
            for (which, loop), numbers in rows.items()
        ]
