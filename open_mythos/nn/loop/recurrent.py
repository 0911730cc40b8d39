"""The loop itself: one block, run again and again."""

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.block import BlockTrace, Frozen, TransformerBlock
from open_mythos.nn.cache import Entries, LayerCache
from open_mythos.nn.dict_cache import DictCache
from open_mythos.nn.loop.adapter import LoRAAdapter
from open_mythos.nn.loop.by_hand import loop_by_hand
from open_mythos.nn.loop.constants import Constants, Tick, form_constants
from open_mythos.nn.loop.core import run_core
from open_mythos.nn.loop.corrections import Corrections
from open_mythos.nn.loop.exiting import Leave, open_account
from open_mythos.nn.loop.halting import ACTHalting
from open_mythos.nn.loop.initial import InitialState
from open_mythos.nn.loop.injection import Coefficients, build_injection
from open_mythos.nn.loop.per_row import RowLoops, run_rows
from open_mythos.nn.loop.readout import ActMean, Readout
from open_mythos.nn.loop.skipping import open_skipping
from open_mythos.nn.loop.standing import Standing
from open_mythos.nn.loop.trace import LoopTrace, Noted, loop_trace, state_change, state_rms
from open_mythos.nn.loop.work import Meter
from open_mythos.nn.moe.layer import MoEFFN
from open_mythos.nn.norm import RMSNorm, total
from open_mythos.nn.watched import patched
from open_mythos.ops.loop_end import HaltingRule, Ledger, loop_update
from open_mythos.ops.rows import rows_backend


def check_loops(n_loops: int | None, default: int) -> int:
    """The number of loops to run.

    Raises:
        InputError: If it is not an int of at least 1.
    """
    if n_loops is None:
        return default
    if isinstance(n_loops, bool) or not hasattr(n_loops, "__index__"):
        raise InputError(
            f"n_loops is {n_loops!r}; it must be an int of at least 1, or None for the "
            f"config's max_loop_iters ({default})"
        )
    if n_loops < 1:
        raise InputError(
            f"n_loops is {n_loops}; it must be at least 1, or None for the config's "
            f"max_loop_iters ({default})"
        )
    return operator.index(n_loops)


class RecurrentBlock(nn.Module):
    """h <- injection(h, e, f + lora(f, t)), f = block(norm(h + index(t) + e)), n_loops times.

    That is the default; what is read, normed and written, and where the loop starts, are choices
    of the config (docs/equations.md).

    Attributes:
        norm: Of what the block reads; None without loop_norm "pre" or "sandwich".
        post_norm: Of the next state; None without loop_norm "post" or "sandwich".
        input_norm: Of the loop's input; None without prelude_norm.
        block: The core's first layer.
        deeper: The core's other layers.
        routers: (max_loop_iters - 1, core_layers, E, dim), of the loops after the first; None where
            the router is shared.
        attentions: By loop after the first, then by layer; None where attention is shared.
        corrections: By layer, what every loop adds to its maps; None without a core_lora_rank.
        lockstep: Whether every loop runs even where nothing can change any more: ranks that talk
            inside of a loop must meet in each.
        gated: Whether the gate is trained beside a readout that does not ask it.
        skip: Whether positions that have halted leave the batch, where they can (`Skipping`); None
            is where it pays.
        meter: Adds up what passes compute, where somebody reads it (`metered`).
    """

    lockstep: bool = False
    gated: bool = False
    skip: bool | None = None
    meter: Meter | None = None

    def __init__(self, cfg: MythosConfig) -> None:
        """One block with a mixture of experts, and the loop's parts as the config names them."""
        super().__init__()
        self.cfg = cfg
        moe = cfg.core_ffn == "moe"
        self.injection = build_injection(cfg)
        self.initial = InitialState(cfg)
        self.input_norm = RMSNorm(cfg.dim, cfg.norm_eps) if cfg.prelude_norm else None
        before = cfg.loop_norm in ("pre", "sandwich")
        self.norm = RMSNorm(cfg.dim, cfg.norm_eps) if before else None
        after = cfg.loop_norm in ("post", "sandwich")
        width = cfg.dim * self.injection.streams
        self.post_norm = RMSNorm(width, cfg.norm_eps) if after else None
        self.block = TransformerBlock(cfg, use_moe=moe)
        self.deeper = nn.ModuleList(
            TransformerBlock(cfg, use_moe=moe) for _ in range(cfg.core_layers - 1)
        )
        self.act = ACTHalting(cfg.dim)
        if cfg.readout == "last":  # never called: DDP would wait for its gradient
            self.act.requires_grad_(False)
        self.lora = (
            LoRAAdapter(cfg.dim, cfg.lora_rank, cfg.max_loop_iters) if cfg.loop_lora else None
        )
        rows, layers = cfg.max_loop_iters - 1, cfg.core_layers
        self.routers = None
        if cfg.untied_router and rows:
            self.routers = nn.Parameter(torch.empty(rows, layers, cfg.n_experts, cfg.dim))
            nn.init.normal_(self.routers, std=0.02)
        self.attentions = None
        if cfg.untied_attention and rows:
            kind = type(self.block.attn)
            self.attentions = nn.ModuleList(
                nn.ModuleList(kind(cfg) for _ in range(layers)) for _ in range(rows)
            )

        self.corrections = None
        if cfg.core_lora_rank:
            self.corrections = nn.ModuleList(Corrections(cfg) for _ in range(layers))

    @property
    def owning(self) -> bool:
        """Whether loops have weights of their own inside of the core's layers."""
        apart = (self.routers, self.attentions, self.corrections)
        return any(part is not None for part in apart)

    @property
    def blocks(self) -> list[TransformerBlock]:
        """The core's layers, in the order in which a loop runs them."""
        return [self.block, *(cast("TransformerBlock", block) for block in self.deeper)]

    @property
    def mixtures(self) -> list[MoEFFN]:
        """The mixtures of experts of the core's layers; none of a dense core."""
        return [block.ffn for block in self.blocks if isinstance(block.ffn, MoEFFN)]

    def begin(self, x: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """The state before the first loop and the input of all loops, (B, S, dim) each.

        Args:
            x: (B, S, dim), what the prelude says.
            where: (S,) or (B, S) int64, positions.
        """
        e = x if self.input_norm is None else self.input_norm(x)
        return self.initial(e, where), e

    def train_gate(self) -> None:
        """Let the halting probability learn as the gate of an exit (`Gate`), whatever is read."""
        self.gated = True
        self.act.requires_grad_(True)

    def think(  # noqa: PLR0913 -- everything one loop depends on
        self,
        h: Tensor,
        e: Tensor,
        tick: Tick,
        context: AttentionContext,
        slot: LayerCache | None = None,
        frozen: Frozen | None = None,
        active: Tensor | None = None,
        *,
        shared: Entries | None = None,
        coefficients: Coefficients | None = None,
        dense: bool = False,
    ) -> tuple[Tensor, BlockTrace]:
        """What one loop says, f (B, S, dim), and what the block wrote and learnt."""
        addends = self.injection.enter(h, e, tick.signal, coefficients)
        read = None
        if self.norm is None:
            x = total(*addends)
        elif self.block.order == "post":
            x = self.norm.of_sum(*addends)
        else:
            x, read = self.norm.of_sum_then(self.block.attn_norm, *addends)
        f, trace = run_core(
            self.blocks, x, context, slot, frozen, active,
            read=read, shared=shared, dense=dense, own=tick.own,
        )  # fmt: skip
        if self.lora is not None and tick.scale is not None:
            f = self.lora.onto(f, tick.scale)
        return f, trace

    def turn(  # noqa: PLR0913 -- everything one loop depends on
        self,
        h: Tensor,
        e: Tensor,
        readout: Readout,
        tick: Tick,
        context: AttentionContext,
        slot: LayerCache | None = None,
        frozen: Frozen | None = None,
        active: Tensor | None = None,
        *,
        valid: Tensor | None = None,
        shared: Entries | None = None,
        coefficients: Coefficients | None = None,
        dense: bool = False,
        observed: bool = True,
    ) -> tuple[Tensor, Readout, Noted]:
        """One loop and its place in the readout: the part that is compiled or recomputed whole."""
        before = h
        f, trace = self.think(
            h, e, tick, context, slot, frozen, active,
            shared=shared, coefficients=coefficients, dense=dense,
        )  # fmt: skip
        p = weight = None
        if readout.fusable and self._in_one_kernel(h, f, tick):
            h, readout, p, weight = self._end(h, e, f, readout, tick, coefficients)
        else:
            new = self.injection(h, e, f, coefficients)
            new = new if self.post_norm is None else self.post_norm(new)
            h = new if frozen is None else frozen.settle(h, new)
            asked = readout.asks or (self.gated and self.training)
            p = self.act(self.injection.gathered(h)) if asked else None
            readout, weight = readout.step(h, p, last=tick.last)
        kept = self.cfg.halted == "freeze" or self.cfg.kv == "first"
        noted = Noted(
            p=p,
            weight=weight,
            load=trace.load,
            rms=state_rms(h, valid) if observed else None,
            change=state_change(h, before, valid) if observed else None,
            new=trace.new if kept else None,
            seen=trace.seen if kept else None,
        )
        return h, readout, noted

    def advance(
        self,
        now: Standing,
        tick: Tick,
        context: AttentionContext,
        slot: LayerCache | None = None,
        valid: Tensor | None = None,
        coefficients: Coefficients | None = None,
        *,
        observed: bool = True,
    ) -> tuple[Standing, Noted]:
        """One loop: where the rows stand after it, and what it was seen to do."""
        h, readout, noted = self.turn(
            now.h,
            now.e,
            now.readout,
            tick,
            context,
            slot,
            now.frozen,
            now.active(valid),
            valid=valid,
            shared=now.shared,
            coefficients=coefficients,
            dense=patched(self.act) or any(patched(block.ffn) for block in self.blocks),
            observed=observed,
        )
        frozen, shared = now.frozen, now.shared
        if self.cfg.kv == "first" and shared is None:
            shared = noted.seen
        if self.cfg.halted == "freeze" and readout.halted is not None:
            frozen = Frozen(readout.halted, noted.new or {})
        return Standing(h, now.e, readout, frozen, shared), noted

    def _in_one_kernel(self, h: Tensor, f: Tensor, tick: Tick) -> bool:
        """Whether injection, halting and readout run as one: on a GPU, without gradient, unseen."""
        return (
            isinstance(tick.last, bool)
            and h.dtype == f.dtype
            and self.post_norm is None
            and self.injection.fusable
            and not any(patched(module) for module in self.act.modules())
            and not patched(self.injection)
            and rows_backend(h, f, self.act.halt.weight) == "triton"
        )

    def _end(
        self,
        h: Tensor,
        e: Tensor,
        f: Tensor,
        readout: Readout,
        tick: Tick,
        coefficients: Coefficients | None,
    ) -> tuple[Tensor, Readout, Tensor | None, Tensor | None]:
        """The equations of `turn` after the block, by `loop_update`."""
        carry = self.injection.carry(coefficients)
        rule = account = None
        if isinstance(readout, ActMean):
            ledger, halt = readout.ledger, self.act.halt
            freeze = self.cfg.halted == "freeze"
            rule = HaltingRule(
                halt.weight.view(-1), halt.bias, ledger.threshold, ledger.settled, freeze
            )
            account = Ledger(
                ledger.mean, ledger.spent, ledger.halted, ledger.loops, ledger.remainder
            )
        end = loop_update(h, e, f, carry, rule, account, last=tick.last)
        if isinstance(readout, ActMean) and end.ledger is not None:
            readout = replace(readout, ledger=replace(readout.ledger, **end.ledger._asdict()))
        else:
            readout, _ = readout.step(end.state, None, last=tick.last)
        return end.state, readout, end.p, end.weight

    def constants(self, n_loops: int, like: Tensor, *, stacked: bool = False) -> Constants:
        """What the loops of one pass have in common, on the device of `like`, in its dtype."""
        return form_constants(self, n_loops, like, stacked=stacked)

    def run(  # noqa: PLR0913 -- everything a pass depends on
        self,
        h: Tensor,
        e: Tensor,
        context: AttentionContext,
        n_loops: int | RowLoops,
        slots: Sequence[LayerCache] | None = None,
        valid: Tensor | None = None,
        *,
        backprop_loops: int | None = None,
        read_loops: Sequence[int] = (),
        constants: Constants | None = None,
        observed: bool = True,
        leave: Leave | None = None,
    ) -> tuple[Tensor, LoopTrace | None]:
        """The readout (B, S, dim) after up to `n_loops` loops, and the trace of the pass.

        Args:
            h: (B, S, dim), the state at the start.
            e: (B, S, dim), the input that every loop sees.
            context: Positions and visibility of the call.
            n_loops: Loops to run, fewer only where nothing can change any more; or those of each
                row, all of which are run (see `run_rows`; without slots and constants).
            slots: One cache per loop, or one for all as cfg.kv says; extended, not committed.
            valid: (B, S) boolean, False at padding; None means all real.
            backprop_loops: Only the last so many loops are differentiated; None is all of them.
            read_loops: Loops after which the state is read out beside the last; the trace has what
                was read.
            constants: Of `n_loops`, where they are known already.
            observed: Whether a trace is wanted; None is returned for it otherwise.
            leave: How positions leave early; None: as the readout says.
        """
        if isinstance(n_loops, RowLoops):
            how = (valid, backprop_loops, tuple(read_loops))
            return run_rows(self, h, e, context, n_loops, *how, observed=observed, leave=leave)
        given = self.constants(n_loops, h) if constants is None else constants
        h = self.injection.spread(h)
        skipping = open_skipping(self, h, context, leave, slots=slots, observed=observed)
        now = Standing(h, e, open_account(self.cfg, h, leave))
        seen: list[Noted] = []
        reads: dict[int, Tensor] = {}
        watched, places = torch.is_grad_enabled(), None
        for t, tick in enumerate(given.ticks):
            slot = None if slots is None else slots[t if self.cfg.kv == "per_loop" else 0]
            within = backprop_loops is None or t >= n_loops - backprop_loops
            with torch.set_grad_enabled(watched and within):
                now, noted = skipping.advance(
                    self, now, places,
                    tick, context, slot, valid, given.coefficients, observed=observed,
                )  # fmt: skip
            seen.append(noted)
            if t + 1 in read_loops and t + 1 < n_loops:
                reads[t + 1] = self.injection.gathered(now.readout.read(now.h))
            places = None if t + 1 == n_loops else skipping.after(now, valid)
            if places is not None and not places.count and skipping.stops:
                break
        if slots is not None and self.cfg.kv == "per_loop":
            for slot in slots[len(seen) :]:  # the loops that nobody needed show the last keys
                slot.extend(seen[-1].new or {})
        value = self.injection.gathered(now.readout.value)
        counts = skipping.tally is not None  # a list of rows would fix an export's batch
        work = skipping.work([n_loops] * h.shape[0], h.shape[1]) if counts else None
        if not observed:
            return value, None
        read = tuple(reads.get(d, value) for d in read_loops)
        return value, replace(loop_trace(seen, now.readout, now.h, read), work=work)

    def forward(
        self,
        h: Tensor,
        e: Tensor,
        freqs_cis: Tensor,
        mask: Tensor | None = None,
        n_loops: int | None = None,
        kv_cache: DictCache | None = None,
    ) -> Tensor:
        """The loop in the call form of open-mythos 0.5.0.

        Args:
            h: (B, S, dim), the state at the start.
            e: (B, S, dim), the input that every loop sees.
            freqs_cis: Complex table whose first S rows are the positions of `h`.
            mask: Additive or boolean; None hides nothing.
            n_loops: None is the config's max_loop_iters.
            kv_cache: Dict with one entry `recurrent_loop_t` per loop, extended in place.
        """
        n_loops = check_loops(n_loops, self.cfg.max_loop_iters)
        return loop_by_hand(self, h, e, (freqs_cis, mask), n_loops, kv_cache)
