"""The loop itself: one block, run again and again."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CacheError, InputError
from open_mythos.nn.attention.context import AttentionContext, legacy_context
from open_mythos.nn.block import BlockTrace, Frozen, TransformerBlock, patched
from open_mythos.nn.cache import LayerCache
from open_mythos.nn.dict_cache import DictCache, close_slot, open_slot
from open_mythos.nn.loop.adapter import LoRAAdapter, loop_signal
from open_mythos.nn.loop.halting import ACTHalting
from open_mythos.nn.loop.injection import build_injection
from open_mythos.nn.loop.readout import ActMean, Readout, open_readout
from open_mythos.nn.norm import RMSNorm
from open_mythos.ops.backend import traced


@dataclass(frozen=True)
class LoopTrace:
    """What one pass through the loop learnt.

    Attributes:
        n_loops: Loops that ran.
        halting: (n_loops, B, S) halting probabilities; None where halting plays no part.
        halting_weights: (n_loops, B, S) weights of the states in the readout; None likewise.
        loops_used: (B, S) int64, loops in which each position took part.
        ponder: (B, S) Graves' N + R; None likewise.
        router_load: (n_loops, E) int64, tokens per expert.
        state_rms: (n_loops,) float32, root mean square of the state after each loop.
    """

    n_loops: int
    halting: Tensor | None
    halting_weights: Tensor | None
    loops_used: Tensor
    ponder: Tensor | None
    router_load: Tensor
    state_rms: Tensor


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
    """h <- injection(h, e, f + lora(f, t)), f = block(norm(h + index(t) + e)), n_loops times."""

    def __init__(self, cfg: MythosConfig) -> None:
        """One block with a mixture of experts, and the loop's parts as the config names them."""
        super().__init__()
        self.cfg = cfg
        self.norm = RMSNorm(cfg.dim)
        self.block = TransformerBlock(cfg, use_moe=True)
        self.injection = build_injection(cfg)
        self.act = ACTHalting(cfg.dim)
        if cfg.readout == "last":  # never called: DDP would wait for its gradient
            self.act.requires_grad_(False)
        self.lora = (
            LoRAAdapter(cfg.dim, cfg.lora_rank, cfg.max_loop_iters) if cfg.loop_lora else None
        )

    def step(  # noqa: PLR0913 -- everything one loop depends on
        self,
        h: Tensor,
        e: Tensor,
        t: int,
        context: AttentionContext,
        slot: LayerCache | None = None,
        frozen: Frozen | None = None,
        active: Tensor | None = None,
        *,
        dense: bool = False,
    ) -> tuple[Tensor, BlockTrace]:
        """Loop `t`: the next state (B, S, dim), and what the block wrote and learnt."""
        x = self.norm(self._with_index(h, t) + e)
        f, trace = self.block.run(x, context, slot, frozen, active, dense=dense)
        if self.lora is not None:
            f = f + self.lora(f, t)
        new = self.injection(h, e, f)
        if frozen is not None:
            new = torch.where(frozen.halted.unsqueeze(-1), h, new)
        return new, trace

    def _with_index(self, h: Tensor, t: int) -> Tensor:
        cfg = self.cfg
        if not cfg.loop_index:
            return h
        signal = loop_signal(t, cfg.loop_dim, cfg.dim, device=h.device)
        return h + (cfg.loop_index_scale * signal).to(h.dtype)

    def run(
        self,
        h: Tensor,
        e: Tensor,
        context: AttentionContext,
        n_loops: int,
        slots: Sequence[LayerCache] | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, LoopTrace]:
        """The readout (B, S, dim) after up to `n_loops` loops, and the trace of the pass.

        Args:
            h: (B, S, dim), the state at the start.
            e: (B, S, dim), the input that every loop sees.
            context: Positions and visibility of the call.
            n_loops: Loops to run; fewer only where nothing can change any more.
            slots: One cache per loop, extended but not committed.
            valid: (B, S) boolean, False at padding; None means all real.
        """
        freeze = self.cfg.halted == "freeze"
        dense = patched(self.act) or patched(self.block.ffn)
        readout: Readout = open_readout(self.cfg, h)
        frozen: Frozen | None = None
        seen = _Observed()
        for t in range(n_loops):
            slot = None if slots is None else slots[t]
            active = _active(valid, frozen)
            h, trace = self.step(h, e, t, context, slot, frozen, active, dense=dense)
            p = self.act(h) if isinstance(readout, ActMean) else None
            readout = readout.step(h, p, last=t == n_loops - 1)
            seen.note(trace, p, _rms(h, valid))
            if freeze and readout.halted is not None:
                frozen = Frozen(readout.halted, trace.entries)
            if self._settled(readout.halted, valid, freeze, cached=slots is not None):
                break
        if slots is not None:
            for slot in slots[len(seen.norms) :]:  # the loops that nobody needed show the last keys
                slot.extend(trace.entries)
        return readout.value, seen.trace(readout, h)

    def _settled(
        self, halted: Tensor | None, valid: Tensor | None, freeze: bool, *, cached: bool
    ) -> bool:
        """Whether no further loop can change anything.

        Training runs every loop: ranks that stopped at different loops would wait for each
        other's collectives for ever, and reading the flag would stall the device.
        """
        if halted is None or self.training or traced() or (cached and not freeze):
            return False
        done = halted if valid is None else halted | ~valid
        return bool(done.all())

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
        batch, length, _ = h.shape
        if kv_cache is None:
            return self.run(h, e, legacy_context(freqs_cis, mask, length, 0), n_loops)[0]
        keys = [f"recurrent_loop_{t}" for t in range(n_loops)]
        held = sum(key.startswith("recurrent_loop_") for key in kv_cache)
        if held not in (0, n_loops):
            raise CacheError(
                f"this kv_cache was filled with {held} loops, the call asks for {n_loops}; use a "
                "new dict, or the same number of loops"
            )
        slots = [open_slot(kv_cache, k, self.cfg, batch, length, like=h) for k in keys]
        context = legacy_context(freqs_cis, mask, length, slots[0].length)
        out, _ = self.run(h, e, context, n_loops, slots)
        for key, slot in zip(keys, slots, strict=True):
            close_slot(kv_cache, key, slot, length)
        return out


def _active(valid: Tensor | None, frozen: Frozen | None) -> Tensor | None:
    if frozen is None:
        return valid
    running = ~frozen.halted
    return running if valid is None else running & valid


@torch.no_grad()
def _rms(h: Tensor, valid: Tensor | None) -> Tensor:
    square = h.float().square().mean(-1)
    if valid is None:
        return square.mean().sqrt()
    return ((square * valid).sum() / valid.sum().clamp(min=1)).sqrt()


@dataclass
class _Observed:
    """What the loops of one pass were seen to do; keys and values are not kept."""

    loads: list[Tensor] = field(default_factory=list)
    halting: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)

    def note(self, trace: BlockTrace, p: Tensor | None, norm: Tensor) -> None:
        self.norms.append(norm)
        if trace.load is not None:
            self.loads.append(trace.load)
        if p is not None:
            self.halting.append(p)

    def trace(self, readout: Readout, h: Tensor) -> LoopTrace:
        n_loops = len(self.norms)
        act = readout if isinstance(readout, ActMean) else None
        everywhere = torch.full(h.shape[:-1], n_loops, dtype=torch.int64, device=h.device)
        nobody = torch.zeros(n_loops, 0, dtype=torch.int64, device=h.device)
        return LoopTrace(
            n_loops=n_loops,
            halting=torch.stack(self.halting) if act else None,
            halting_weights=torch.stack(act.weights) if act else None,
            loops_used=act.ledger.loops if act else everywhere,
            ponder=act.ledger.ponder if act else None,
            router_load=torch.stack(self.loads) if self.loads else nobody,
            state_rms=torch.stack(self.norms),
        )
