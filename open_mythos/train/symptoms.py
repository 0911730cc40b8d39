"""Symptoms: what the last steps of a run warn of, in a sentence each; `doctor` looks closer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from open_mythos.train.recipe import Recipe
from open_mythos.train.records import StepRecord


# Steps that are judged together, no more than the console keeps: single ones say little.
STEPS = 20
# Growth of the state from the first loop to the last. A carry of 0.37, the seed design's, comes to
# 1.6 at any depth; a sum of equal contributions to 3 in three loops.
GROWN = 3.0
# rho(A) beyond which the carry remembers a hundred loops.
CARRIED = 0.99
# Share of the way from as few experts as a token visits (0) to all alike (1), as in the doctor.
SPREAD = 0.25
# Loops used, of those given, from where halting counts as never firing; and the other end.
ALL_LOOPS, ONE_LOOP = 0.999, 1.02


@dataclass(frozen=True)
class Symptom:
    """One warning.

    Attributes:
        kind: Its name: each is told once in a run.
        text: For people.
    """

    kind: str
    text: str


def symptoms(records: Sequence[StepRecord], recipe: Recipe) -> list[Symptom]:
    """What the last `STEPS` records warn of; nothing as long as there are fewer."""
    last = [record for record in records[-STEPS:] if not record.skipped]
    if len(records) < STEPS or not last:
        return []
    return [found for check in CHECKS if (found := check(last, recipe)) is not None]


def growing_state(records: Sequence[StepRecord], recipe: Recipe) -> Symptom | None:  # noqa: ARG001
    """A state that grows from loop to loop."""
    known = [(r.state_growth, r.n_loops) for r in records if r.state_growth is not None]
    if not known:
        return None
    total = mean([growth ** (loops - 1) for growth, loops in known])
    if not total >= GROWN:
        return None
    each, loops = mean([growth for growth, _ in known]), mean([loops for _, loops in known])
    return Symptom(
        "growing_state",
        f"the state grows {each:.2f}x per loop, {total:.1f}x over {loops:.1f} loops: deeper passes "
        "will see states that training did not; see loop_norm, lti_decay",
    )


def endless_carry(records: Sequence[StepRecord], recipe: Recipe) -> Symptom | None:  # noqa: ARG001
    """A linear carry that forgets nothing."""
    rho = records[-1].rho_a
    if rho is None or not rho >= CARRIED:
        return None
    return Symptom(
        "endless_carry",
        f"rho(A) is {rho:.4f}: the injection adds up all loops; see lti_decay, injection=add",
    )


def narrow_router(records: Sequence[StepRecord], recipe: Recipe) -> Symptom | None:
    """A few experts that do all the work."""
    cfg = recipe.model
    experts, per_token = cfg.n_experts, cfg.n_experts_per_tok
    known = [r.router_entropy for r in records if r.router_entropy is not None]
    if not known or experts <= per_token:
        return None
    # The loads of all layers of the core are counted as one.
    busy = float((cfg.core_layers * experts) ** mean(known)) / cfg.core_layers
    if not (busy - per_token) / (experts - per_token) < SPREAD:
        return None
    return Symptom(
        "narrow_router",
        f"the load of {experts} experts is as uneven as if {busy:.1f} of them served alone, where "
        f"a token visits {per_token}; see router_bias_step",
    )


def idle_halting(records: Sequence[StepRecord], recipe: Recipe) -> Symptom | None:
    """Halting that never fires, or always at once."""
    if recipe.model.readout == "last":
        return None
    given = mean([float(r.n_loops) if r.given_loops is None else r.given_loops for r in records])
    used = mean([r.mean_loops for r in records])
    if given <= ONE_LOOP:
        return None
    if used <= ONE_LOOP:
        return Symptom(
            "idle_halting",
            f"halting fires at once ({used:.2f} of {given:.1f} loops used): further loops change "
            "nothing; see objective.ponder, objective.depth_prior, readout=last",
        )
    if used >= ALL_LOOPS * given:
        return Symptom(
            "idle_halting",
            f"halting never fires ({used:.2f} of {given:.1f} loops used); see objective.ponder, "
            "objective.depth_prior, readout=last",
        )
    return None


def one_depth(records: Sequence[StepRecord], recipe: Recipe) -> Symptom | None:
    """A depth that never varies, though nothing but the recipe fixes it."""
    loops = {record.n_loops for record in records}
    tied = len({record.level for record in records}) > 1
    if recipe.depth.kind != "fixed" or tied or len(loops) > 1 or loops == {1}:
        return None
    return Symptom(
        "one_depth",
        f"all of the last {len(records)} steps ran {loops.pop()} loops: a model may come to work "
        "at that depth alone; see depth.kind=poisson",
    )


def mean(values: Sequence[float]) -> float:
    """Of at least one number."""
    return sum(values) / len(values)


CHECKS: tuple[Callable[[Sequence[StepRecord], Recipe], Symptom | None], ...] = (
    endless_carry,
    growing_state,
    narrow_router,
    idle_halting,
    one_depth,
)
