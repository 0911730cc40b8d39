"""Findings: what measurements say is wrong with a loop, how sure that is, and what usually helps.

Every threshold stands here, with its reason.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from open_mythos.eval.doctor.curve_shape import curve_shape, lost_beyond
from open_mythos.eval.doctor.experts import busiest, load_spread, total_load
from open_mythos.eval.doctor.measurements import Measurements


Severity = Literal["fault", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("fault", "warning", "note")

# A carry of 0.99 remembers a hundred loops, which is more than anybody trains with: the state then
# adds up whatever it is told. At 0.9 it is ten, the usual depth.
ENDLESS_CARRY, LONG_CARRY = 0.99, 0.9
# From the trained depth to four times of it a settled state grows by some per cent, a sum of equal
# contributions by 4. Half as large again is what norms inside of the block were never shown.
GROWTH, SOME_GROWTH = 1.5, 1.2
# Share of the way from as few experts as a token visits (0) to all alike (1), by the load's
# entropy. Two of four experts with 98 % of the picks, as seen in the public tutorial, are at 0.1;
# a trained router that is kept even is above 0.9.
COLLAPSED, UNEVEN = 0.25, 0.5
# Picks per expert below which an idle one may be chance: at 30 on average, one expert in 1e13.
ENOUGH_PICKS = 30
# Positions that halt before the watched loops end, and loops that they take, where halting is dead.
HARDLY_ANY, ONE_LOOP = 0.01, 1.05
# Nats by which deeper passes may be worse than the trained depth on the same targets. The public
# 118M model of fixed depth loses 0.74 at twice its depth and 1.08 at twice that; its twin of random
# depth, read at the last state, 0.036 from 12 to 64 loops.
LOST, SOME_LOST = 0.1, 0.05
# What all loops together are worth, at least, before they count as idle.
IDLE = 0.005
# Share of equal predictions from two starting states below which the start is said to matter.
AGREE = 0.95


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: Its name; docs/doctor.md has a line for it.
        severity: "fault": the loop does not do its work. "warning": it will not for long, or not
            at other depths. "note": worth knowing.
        says: What is so, with the number that says it.
        helps: What usually helps.
    """

    kind: str
    severity: Severity
    says: str
    helps: str


def diagnose(m: Measurements) -> tuple[Finding, ...]:
    """All findings, faults first; of equal severity, causes before what follows from them."""
    found = [finding for check in CHECKS if (finding := check(m)) is not None]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def sound(findings: Sequence[Finding]) -> bool:
    """Whether there is no fault among them."""
    return all(finding.severity != "fault" for finding in findings)


# -- the checks, causes first ---------------------------------------------------------------------


def not_finite(m: Measurements) -> Finding | None:
    """States or losses that are no numbers."""
    broken = [t for t, size in enumerate(m.sizes, start=1) if not math.isfinite(size)]
    lost = [p.n_loops for p in m.curve.points if not math.isfinite(p.loss)]
    if not broken and not lost:
        return None
    what = f"the state is not finite from loop {broken[0]} on" if broken else (
        f"the loss is not finite at {lost[0]} loops"
    )  # fmt: skip
    return Finding(
        "not_finite",
        "fault",
        f"{what} (trained depth {m.trained}).",
        "Lower optim.lr and look at the loss just before; a norm on the state (loop_norm), a "
        "shorter carry (lti_decay) or a clipped gradient keep it from coming back.",
    )


def unstable_injection(m: Measurements) -> Finding | None:
    """A linear carry that forgets nothing."""
    if m.carry is None or m.carry < LONG_CARRY:
        return None
    memory = "for ever" if m.carry >= 1.0 else f"over some {1.0 / (1.0 - m.carry):,.0f} loops"
    adds_up = not m.growth < GROWTH
    severity: Severity = "fault" if m.carry >= ENDLESS_CARRY and adds_up else "warning"
    grown = f" and the state grows {m.growth:.2g} times" if adds_up else ""
    return Finding(
        "unstable_injection",
        severity,
        f"The {m.injection} injection carries the state over with rho(A) = {m.carry:.4g}: it adds "
        f"up what comes {memory}{grown} from {m.trained} to {m.loops} loops.",
        "Start A near 0.01 (lti_decay), keep its learning rate at that of the rest, or take an "
        "injection without carry (injection=add).",
    )


def drifting_state(m: Measurements) -> Finding | None:
    """A state that goes on growing beyond the trained depth."""
    if not m.growth > SOME_GROWTH:
        return None
    radius = 0.0 if m.jacobian is None else m.jacobian.radius
    why = f", and the loop's Jacobian has radius {radius:.3f}" if radius > 1.0 else ""
    return Finding(
        "drifting_state",
        "fault" if m.growth >= GROWTH else "warning",
        f"The state grows {m.growth:.2g} times from {m.trained} loops, the trained depth, to "
        f"{m.loops}{why}: deeper passes see states that training never showed.",
        "A norm on the loop's state (loop_norm=post or sandwich) or a shorter carry bounds it; "
        "depths drawn at random (depth.kind=poisson) show it to training.",
    )


def collapsed_router(m: Measurements) -> Finding | None:
    """A few experts that do all the work, over all loops or in some."""
    if not m.experts or m.experts <= m.per_token:
        return None
    spread = load_spread(total_load(m.use), m.experts, m.per_token)
    # Loops that most positions sit out, where the halted are frozen, route too few to judge by.
    gone = (0.0, *m.use.halted_by)
    busy = [
        row for row, out in zip(m.use.expert_load, gone, strict=False) if any(row) and out < 0.5
    ]
    by_loop = [load_spread(row, m.experts, m.per_token) for row in busy]
    if not by_loop or min(spread, *by_loop) >= UNEVEN:
        return None
    share = busiest(total_load(m.use), m.experts, m.per_token)
    if spread < UNEVEN:
        severity: Severity = "fault" if spread < COLLAPSED else "warning"
        says = (
            f"{m.per_token} of {m.experts} experts serve {share:.0%} of the picks, over all loops "
            f"(spread {spread:.2f}; 1 is even, 0 the fewest that a token can visit)."
        )
    else:
        worst = min(range(len(by_loop)), key=by_loop.__getitem__)
        severity = "warning" if by_loop[worst] < COLLAPSED else "note"
        says = (
            f"The experts share the work over all loops (spread {spread:.2f}), but in loop "
            f"{worst + 1} a few do nearly all of it ({by_loop[worst]:.2f})."
        )
    return Finding(
        "collapsed_router",
        severity,
        says,
        "Raise router_bias_step (0.01 to 0.02 in runs of hundreds of steps), or take fewer "
        "experts; a router per loop (untied_router) lets loops differ.",
    )


def idle_experts(m: Measurements) -> Finding | None:
    """Experts that serve nobody in any loop."""
    load = total_load(m.use)
    picks = m.use.n * m.per_token * m.loops
    idle = sum(share == 0.0 for share in load)
    if not m.experts or not idle or picks < ENOUGH_PICKS * len(load):
        return None
    return Finding(
        "idle_experts",
        "warning",
        f"{idle} of {len(load)} experts serve no position in any of {m.loops} loops.",
        "They cost memory for nothing: raise router_bias_step early in training, or leave them "
        "out.",
    )


def dead_halting(m: Measurements) -> Finding | None:
    """Halting that never happens, or that ends everything at once."""
    if not m.halts:
        return None
    early = m.use.halted_by[-2]
    if m.use.mean_loops <= ONE_LOOP:
        return Finding(
            "dead_halting",
            "fault",
            f"Halting fires at once: a position takes part in {m.use.mean_loops:.2f} of "
            f"{m.loops} loops on average, so that deeper ones change nothing.",
            "Start the halting bias low, leave objective.ponder at 0 until the loss has fallen, "
            "or give the weights a prior over loops (objective.depth_prior); readout=last needs "
            "no halting.",
        )
    if early < HARDLY_ANY:
        return Finding(
            "dead_halting",
            "fault",
            f"Halting never fires: {early:.1%} of the positions have halted before loop "
            f"{m.loops}, at {m.loops / m.trained:.3g} times the trained depth.",
            "A price (objective.ponder=0.01) or a prior over loops (objective.depth_prior) makes "
            "it fire; readout=last is the same without the cost.",
        )
    return None


def uniform_halting(m: Measurements) -> Finding | None:
    """Halting at one and the same loop, whatever the input."""
    if not m.halts or dead_halting(m) is not None:
        return None
    shares = m.histogram
    loop = max(range(m.loops), key=shares.__getitem__)
    if shares[loop] < 1.0 - HARDLY_ANY:
        return None
    return Finding(
        "uniform_halting",
        "warning",
        f"{shares[loop]:.0%} of the positions halt at loop {loop + 1}: halting does not depend on "
        "the input.",
        "Positions of unequal difficulty and a prior over loops (objective.depth_prior) teach it; "
        "a fixed number of loops does the same for less.",
    )


def fixed_depth(m: Measurements) -> Finding | None:
    """A score that is lost beyond the trained depth."""
    if m.tied:
        return None
    shape, lost = curve_shape(m.curve, m.trained, SOME_LOST), lost_beyond(m.curve, m.trained)
    if not lost >= SOME_LOST:
        return None
    worst = max((p for p in m.curve.points if p.n_loops > m.trained), key=lambda p: p.loss)
    how = "; training never drew another depth" if m.varied is False else ""
    picture = "a V" if shape == "V" else "a collapse"
    return Finding(
        "fixed_depth",
        "fault" if lost >= LOST else "warning",
        f"The loss is {lost:.3f} nats worse at {worst.n_loops} loops than at {m.trained}, the "
        f"trained depth: {picture}{how}.",
        "Draw depths while training (depth.kind=poisson around the mean), read the last state "
        "(readout=last) and leave out what tells loops apart (loop_index, loop_lora).",
    )


def cycling_state(m: Measurements) -> Finding | None:
    """A state that comes back after a few loops."""
    if m.period is None or m.period < 2:
        return None
    return Finding(
        "cycling_state",
        "note",
        f"The state comes back after {m.period} loops and moves {m.residuals[-1]:.0%} of its size "
        "in each: what is said depends on the number of loops.",
        "A task of steps may want this. Where more loops should only refine, damp the update "
        "(injection=damped) or draw depths while training.",
    )


def expanding_loop(m: Measurements) -> Finding | None:
    """A loop in which small changes grow."""
    if m.jacobian is None or m.jacobian.radius < 1.0:
        return None
    return Finding(
        "expanding_loop",
        "note",
        f"The whole loop's Jacobian has spectral radius {m.jacobian.radius:.3f} at loop "
        f"{m.trained}: near this state small changes grow, and loops do not settle.",
        "A task of steps may want this. Where more loops should only refine, a shorter carry and "
        "a norm on the state lower it.",
    )


def start_matters(m: Measurements) -> Finding | None:
    """An answer that depends on where the loop started."""
    if not m.starts.agreement < AGREE:
        return None
    return Finding(
        "start_matters",
        "note",
        f"From a random state the model says the same at {m.starts.agreement:.0%} of the "
        f"positions after {m.loops} loops (states {m.starts.distance:.0%} apart).",
        "Where the answer should be a fixed point, start from noise while training "
        "(initial_state=noise).",
    )


def idle_loops(m: Measurements) -> Finding | None:
    """Loops that buy nothing."""
    first, best = m.curve.points[0], m.curve.best
    if m.tied or first.n_loops != 1 or not first.loss - best.loss < IDLE:
        return None
    return Finding(
        "idle_loops",
        "note",
        f"Loops buy nothing here: the loss is {first.loss:.4f} at one loop and {best.loss:.4f} at "
        f"best, with {best.n_loops}.",
        "Depth pays where the network outside of the loop is too shallow for the task: fewer "
        "blocks there, a deeper core, a harder task, or more steps.",
    )


CHECKS: tuple[Callable[[Measurements], Finding | None], ...] = (
    not_finite,
    unstable_injection,
    drifting_state,
    collapsed_router,
    dead_halting,
    fixed_depth,
    idle_experts,
    uniform_halting,
    cycling_state,
    expanding_loop,
    start_matters,
    idle_loops,
)
