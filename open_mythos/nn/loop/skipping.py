"""Skipping: positions that have halted leave the batch, and the loop runs on the others alone.

The result is that of computing all of them, by the definitions in docs/equations.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from open_mythos.config.budget import flops_per_token
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.block import Absent, Frozen
from open_mythos.nn.cache import LayerCache
from open_mythos.nn.loop.constants import Tick
from open_mythos.nn.loop.exiting import Exiting, Leave
from open_mythos.nn.loop.injection import Coefficients
from open_mythos.nn.loop.readout import ActMean, Readout
from open_mythos.nn.loop.standing import Standing
from open_mythos.nn.loop.trace import Noted, state_change, state_rms
from open_mythos.nn.loop.work import Tally, Work
from open_mythos.nn.places import Places, places_of
from open_mythos.nn.watched import patched
from open_mythos.ops.backend import capturing, traced


if TYPE_CHECKING:
    from open_mythos.nn.loop.recurrent import RecurrentBlock


# FLOPs that must be saved in a loop for the way there and back, by kind of device. On one CPU core
# (64 rows of width 512) choosing costs 0.03 ms, shelves 0.1, each state taken 0.01 and put back
# 0.02: some 0.4 ms in all, at 5e10 FLOPs a second. On an H100 a prompt of 8 x 1,024 positions
# (6e11 FLOPs a loop) took 13 ms longer by leaving three quarters of it out: some 2.8 ms a loop at
# 2.3e14 FLOPs a second (benchmarks/results/skipping-h100.json).
COST = {"cpu": 2e7, "cuda": 6e11}
# FLOPs of a whole loop from which the host asks at all: on a GPU it waits for the answer, which is
# for nothing while nobody has halted.
LEAST = {"cpu": 2e7, "cuda": 8e11}
# Share of the positions above which nobody leaves: noise of what is saved.
MOST = 0.9


def pays(active: int, whole: int, each: float, device: str) -> bool:
    """Whether a loop is cheaper for `active` of `whole` positions, taken out and put back.

    Args:
        active: Positions that go on.
        whole: All positions.
        each: FLOPs of one position in one loop.
        device: Kind of device.
    """
    return active <= MOST * whole and (whole - active) * each >= COST.get(device, COST["cuda"])


def asks(whole: int, each: float, device: str) -> bool:
    """Whether a loop of `whole` positions is worth asking who has halted."""
    return whole * each >= LEAST.get(device, LEAST["cuda"])


@dataclass(frozen=True)
class Skipping:
    """What may be left out in one pass.

    Attributes:
        leaves: Whether positions that have halted may leave the batch.
        stops: Whether the loop may end where nobody goes on.
        forced: Whether they leave even where it does not pay.
        each: FLOPs of one position in one loop.
        tally: Counts what is computed; None where nobody asks.
    """

    leaves: bool = False
    stops: bool = False
    forced: bool = False
    each: float = 0.0
    tally: Tally | None = None

    def after(self, now: Standing, valid: Tensor | None) -> Places | None:
        """Who goes on after a loop: none at all, some, or (None) all are computed.

        The host waits for the device, once; not at all where nothing may be left out.
        """
        halted = now.readout.halted
        if halted is None or not (self.leaves or self.stops):
            return None
        active = ~halted if valid is None else ~halted & valid
        known = now.frozen is not None or now.shared is not None
        if not (self.leaves and known):  # nobody can be left out before keys were formed
            return None if bool(active.any()) else places_of(active)
        places = places_of(active)
        if not places.count:
            return places
        some = places.count < places.whole
        if self.forced:
            return places if some else None
        worth = pays(places.count, places.whole, self.each, active.device.type)
        return places if worth else None

    def advance(
        self,
        loop: "RecurrentBlock",
        now: Standing,
        places: Places | None,
        *given: Any,
        observed: bool,
    ) -> tuple[Standing, Noted]:
        """One loop, of all positions or of those in `places`; see `RecurrentBlock.advance`."""
        if self.tally is not None:
            self.tally.note(now, places, given[3])
        if places is None:
            return loop.advance(now, *given, observed=observed)
        return turn_apart(loop, now, places, *given, observed=observed)

    def work(self, rows: Sequence[int], length: int) -> Work | None:
        """What the pass computed, told to the loop's meter too; `rows` are the loops asked for."""
        if self.tally is None:
            return None
        work, meter = self.tally.work(rows, length), self.tally.loop.meter
        if meter is not None:
            meter.add(work)
        return work


def open_skipping(
    loop: "RecurrentBlock",
    h: Tensor,
    context: AttentionContext,
    leave: Leave | None,
    *,
    slots: Sequence[LayerCache] | None = None,
    observed: bool,
) -> Skipping:
    """What may be left out in a pass over states `h` (B, S, dim).

    Training runs every loop, though maybe for nobody: ranks that stopped at different loops would
    wait for each other's collectives for ever. Where halted positions go on, nobody needs them only
    where all loops look at the first one's keys, and nobody asks what the loops did.

    Args:
        loop: The loop.
        h: (B, S, dim).
        context: Positions and visibility of the call.
        leave: How positions leave early; None: as the readout says.
        slots: Where keys are kept for later calls; None: nowhere.
        observed: Whether a trace is wanted.
    """
    cfg, tally = loop.cfg, None
    if (observed or loop.meter is not None) and not traced():
        predicts = leave is not None and leave.exit.predictions > 0
        tally = Tally(loop, predicts, slots[0].length if slots else 0)
    freeze = cfg.halted == "freeze"
    halts = cfg.readout != "last" or leave is not None
    if not halts or loop.lockstep or traced() or capturing():
        return Skipping(tally=tally)
    unseen = freeze or (cfg.kv == "first" and not observed)
    each = flops_per_token(cfg, 1, 1).loops
    leaves = unseen and loop.skip is not False
    if loop.skip is None:
        leaves = leaves and asks(h.shape[0] * h.shape[1], each, h.device.type)
    leaves = leaves and fits(loop, context, leave)
    return Skipping(
        leaves=leaves,
        stops=not loop.training and (slots is None or freeze or leaves),
        forced=loop.skip is True,
        each=each,
        tally=tally,
    )


def fits(loop: "RecurrentBlock", context: AttentionContext, leave: Leave | None) -> bool:
    """Whether a part of the positions can be computed as well as all of them.

    Not in fixed shapes; not where a layer was replaced or hooked, or compiled: whoever looks there
    sees every position; not for exits that count on the batch's shape; and in training not where
    dropout would be drawn otherwise, or a loop's own attention be left without a gradient.
    """
    if context.lengths is not None or (context.mask is not None and context.mask.dim() != 4):
        return False
    if leave is not None and not getattr(leave.exit, "packs", False):
        return False
    if loop.training and (loop.cfg.dropout > 0.0 or loop.attentions is not None):
        return False
    turn = vars(loop).get("turn")
    if turn is not None and not getattr(turn, "any_shape", False):
        return False
    own = ("advance", "think", "run")
    replaced = any(name in vars(module) for module in (loop, *loop.blocks) for name in own)
    return not replaced and not any(patched(module) for module in loop.modules())


def turn_apart(  # noqa: PLR0913 -- everything one loop depends on
    loop: "RecurrentBlock",
    now: Standing,
    places: Places,
    tick: Tick,
    context: AttentionContext,
    slot: LayerCache | None = None,
    valid: Tensor | None = None,
    coefficients: Coefficients | None = None,
    *,
    observed: bool = True,
) -> tuple[Standing, Noted]:
    """`RecurrentBlock.advance` for the positions in `places` alone; the others stay.

    Those that are not there have halted, or are padding.
    """
    if not places.count:
        if torch.is_grad_enabled():
            now = replace(now, h=now.h + _nothing(loop, now, tick, context, coefficients))
        return _rested(loop, now, slot, valid, observed=observed)
    part, account, noted = _turn(loop, now, places, tick, context, slot, coefficients)
    after = places.put(now.h, part)
    readout = now.readout.put(places, account, after)
    frozen = now.frozen
    if frozen is not None:
        assert readout.halted is not None
        frozen = Frozen(readout.halted, noted.new or {})
    done = replace(now, h=after, readout=readout, frozen=frozen)
    if not observed:
        return done, noted
    weight = noted.weight
    return done, replace(
        noted,
        p=None if noted.p is None else loop.act(loop.injection.gathered(after)),
        weight=None if weight is None else places.put(weight.new_zeros(now.h.shape[:2]), weight),
        rms=state_rms(after, valid),
        change=state_change(after, now.h, valid),
    )


def _turn(
    loop: "RecurrentBlock",
    now: Standing,
    places: Places,
    tick: Tick,
    context: AttentionContext,
    slot: LayerCache | None,
    coefficients: Coefficients | None,
) -> tuple[Tensor, Readout, Noted]:
    """One turn of those who are there: their states (1, N, dim), their account, what was noted."""
    h, frozen = places.take(now.h), None
    account = now.readout.take(places, h)
    if now.frozen is not None:
        assert account.halted is not None
        frozen = Absent(account.halted, now.frozen.entries, places)
    if isinstance(tick.last, Tensor) and tick.last.dim():
        tick = replace(tick, last=places.told(tick.last))
    return loop.turn(
        h, places.take(now.e), account, tick, context.at(places), slot, frozen, None,
        valid=None, shared=now.shared, coefficients=coefficients, observed=False,
    )  # fmt: skip


def _nothing(
    loop: "RecurrentBlock",
    now: Standing,
    tick: Tick,
    context: AttentionContext,
    coefficients: Coefficients | None,
) -> Tensor:
    """Zero, for which one position goes through the loop: its weights have a slope, of zero.

    A process that had none for a weight would let others wait for it.
    """
    batch, length = now.h.shape[:2]
    index = torch.zeros(1, dtype=torch.int64, device=now.h.device)
    one = Places(index, (1, *[0] * (batch - 1)), length, 0)
    part, _, noted = _turn(loop, now, one, tick, context, None, coefficients)
    never = torch.zeros((), dtype=torch.bool, device=now.h.device)
    zero = torch.where(never, part.sum(), 0.0)
    return zero if noted.p is None else zero + torch.where(never, noted.p.sum(), 0.0).to(zero.dtype)


def _rested(
    loop: "RecurrentBlock",
    now: Standing,
    slot: LayerCache | None,
    valid: Tensor | None,
    *,
    observed: bool,
) -> tuple[Standing, Noted]:
    """A loop in which nobody takes part: what others see of it are the keys of the one before."""
    kept = None if now.frozen is None else now.frozen.entries
    if slot is not None and kept:
        slot.extend(kept)
    if isinstance(now.readout, Exiting):
        now = replace(now, readout=replace(now.readout, loop=now.readout.loop + 1))
    experts = loop.cfg.core_layers * loop.cfg.n_experts
    load = torch.zeros(experts, dtype=torch.int64, device=now.h.device)
    noted = Noted(None, None, load if loop.mixtures else None, None, new=kept)
    if not observed:
        return now, noted
    asks = now.readout.asks or (loop.gated and loop.training)
    inner = now.readout.inner if isinstance(now.readout, Exiting) else now.readout
    p = loop.act(loop.injection.gathered(now.h)) if asks else None
    return now, replace(
        noted,
        p=p,
        weight=torch.zeros_like(inner.ledger.spent) if isinstance(inner, ActMean) else None,
        rms=state_rms(now.h, valid),
        change=state_change(now.h, now.h, valid),
    )
