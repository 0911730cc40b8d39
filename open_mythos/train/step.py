"""One training step: batch, forward, loss, backward, clip, update, balance; and its record."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from open_mythos.data.batch import Batch, BatchSource, Courses
from open_mythos.model.output import ForwardOutput
from open_mythos.nn.moe.balance import dead_experts, load_entropy, load_peak
from open_mythos.train.curriculum import advance
from open_mythos.train.depth import sample_depth
from open_mythos.train.loss_scale import FLOOR
from open_mythos.train.objective import objective, sample_reads
from open_mythos.train.optim import set_learning_rate, skip_unless
from open_mythos.train.passes import StepPlan, Tally, count_scored, plan_step
from open_mythos.train.recipe import Recipe
from open_mythos.train.records import StepRecord
from open_mythos.train.schedule import learning_rate
from open_mythos.train.state import TrainState
from open_mythos.train.usage import Work, forget_memory, usage


@dataclass(frozen=True)
class Launched:
    """A step that the device may still be working on: its numbers are on their way to the host.

    Attributes:
        step: Steps done with it.
        course: What its rows are of, where the source gives several things in turn.
        drawn: Level of its rows where a curriculum mixes several; 0 where it does not.
        depths: Loops that its rows were given, on all ranks; one number where all had the same.
        level: Curriculum level it was drawn for.
        lr: Its learning rate.
        positions: Positions of its whole batch, those of other ranks included.
        length: Positions of one row.
        tokens: Positions seen since the run began.
        began: Host time at its start, seconds.
        waited: Seconds that making the batch took.
        names: What `numbers` holds first, in order.
        numbers: Scalars, then the router's load (T, E) row by row; float64, on the host.
        shape: (T, E).
        arrived: Recorded behind the copy of the numbers; None where they are there at once.
    """

    step: int
    course: str
    drawn: int
    depths: tuple[int, ...]
    level: int
    lr: float
    positions: int
    length: int
    tokens: int
    began: float
    waited: float
    names: tuple[str, ...]
    numbers: Tensor
    shape: tuple[int, int]
    arrived: torch.cuda.Event | None


def train_step(state: TrainState, source: BatchSource, recipe: Recipe) -> StepRecord:
    """Take one step, move `state` on by it, and wait for its record."""
    return finish(state, launch(state, source, recipe), source, recipe)


def launch(state: TrainState, source: BatchSource, recipe: Recipe) -> Launched:
    """Take one step without waiting for the device.

    Everything that is drawn comes from (recipe.seed, state.step), dropout aside, whose generator
    is part of the state. The batch is read in passes (`step_passes`), each weighed by its share of
    the scored positions, so that the step does not depend on how it is divided. A step whose loss
    or gradient is not finite, or a spike, moves no parameter, which the device decides by itself;
    it is counted, and its data is not tried again.

    Raises:
        InputError: If no position of the batch is scored.
    """
    began = time.perf_counter()
    model, spread = state.working.model.train(), state.spread
    course = source.course(state.step) if isinstance(source, Courses) else ""
    level = state.progress(course).level
    plan = plan_step(recipe, state.step, spread)
    parts = [
        (source.batch(state.step, level) if rows is None else source.batch(state.step, level, rows))
        for rows in plan.rows
    ]
    waited = time.perf_counter() - began
    scored = count_scored(parts, state.device, spread)
    depths = depths_of(plan, parts[0].n_loops, recipe, state.step)
    lr = learning_rate(recipe.optim, state.step, recipe.steps)

    tally, forward = Tally(), spread.caller(model)
    rows = sum(len(part.ids) for part in parts) * spread.data_world
    for index, part in enumerate(parts):
        batch = part.to(state.device)
        with spread.passing(last=index == len(parts) - 1):
            output: ForwardOutput = forward(
                batch.ids,
                depths[0] if len(depths) == 1 else plan.loops(index),
                logits_to_keep=0,
                backprop_loops=recipe.depth.backprop_loops,
                return_output=True,
                **further(batch, depths, recipe, state),
            )
            terms = objective(
                output, batch.targets, head_weight(model), recipe.objective, spread.head_loss
            )
            share = None if scored is None else terms.n_targets / scored
            loss = terms.total if share is None else terms.total * (share * spread.data_world)
            state.working.scale(loss).backward()
            state.working.collect()
        tally.add(output, terms, share, len(part.ids) / rows)
    scalars, load = tally.summed(spread)
    state.working.unscale()
    norm = spread.clip(state.model, recipe.optim.clip)
    kept, verdict = judge(state, scalars["loss"], norm, recipe.optim.skip_spikes)
    set_learning_rate(state.optimizer, lr)
    with skip_unless(state.optimizer, kept):
        state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.working.refresh()
    balance(model, kept, recipe.router_bias_step)

    positions = sum(part.ids.numel() for part in parts) * spread.data_world
    state.step += 1
    state.tokens += positions
    scalars = {**scalars, "grad_norm": norm, **carry(state.model), **verdict}
    numbers, arrived = to_host(list(scalars.values()), load)
    return Launched(
        step=state.step,
        course=course,
        drawn=parts[0].level,
        depths=depths,
        level=level,
        lr=lr,
        positions=positions,
        length=parts[0].ids.shape[1],
        tokens=state.tokens,
        began=began,
        waited=waited,
        names=tuple(scalars),
        numbers=numbers,
        shape=(load.shape[0], load.shape[1]),
        arrived=arrived,
    )


def depths_of(plan: StepPlan, asked: int | None, recipe: Recipe, step: int) -> tuple[int, ...]:
    """Loops of a step's rows, one number where all have the same: first what the batch asks for."""
    if asked is not None:
        return (asked,)
    if plan.depths is not None:
        return plan.depths
    return (sample_depth(recipe.depth, recipe.seed, step),)


def further(
    batch: Batch, depths: tuple[int, ...], recipe: Recipe, state: TrainState
) -> dict[str, Any]:
    """What some passes are told besides; other networks than OpenMythos need not know of it."""
    deepest, told = max(depths), dict[str, Any]()
    reads = sample_reads(
        recipe.objective, deepest, recipe.depth.backprop_loops, recipe.seed, state.step
    )
    if reads:
        told["read_loops"] = reads
    if batch.documents is not None:
        told["documents"] = batch.documents
    if len(depths) > 1 and state.spread.data_world > 1:
        told["min_loops"] = deepest  # ranks that share experts meet in every loop
    return told


def finish(
    state: TrainState,
    launched: Launched,
    source: BatchSource,
    recipe: Recipe,
    since: float = -math.inf,
) -> StepRecord:
    """Wait for a step's numbers, count it, and let the curriculum answer it.

    Args:
        state: Moved on: skips and curriculum.
        launched: The step; steps are finished in the order they were launched.
        source: What it drew from.
        recipe: The run's.
        since: Host time at which the step before was finished: where steps overlap, a step's time
            starts there.
    """
    if launched.arrived is not None:
        launched.arrived.synchronize()
    values = launched.numbers.tolist()
    read = dict(zip(launched.names, values, strict=False))
    load = torch.tensor(values[len(launched.names) :], dtype=torch.float64).view(launched.shape)
    skipped = count_skip(state, read)
    accuracy = read["correct"] / max(read["n_targets"], 1.0)
    # Easier rows say nothing of the level that is being learnt.
    if launched.drawn in (0, launched.level):
        before = state.progress(launched.course)
        now = advance(before, accuracy, recipe.curriculum, source.max_level)
        state.progressed(launched.course, now)
    work = Work(
        positions=launched.positions,
        length=launched.length,
        depths=launched.depths,
        backprop_loops=recipe.depth.backprop_loops,
        precision=state.working.precision,
    )
    seconds = time.perf_counter() - max(since, launched.began)
    measured = usage(state.working.model, work, seconds, launched.waited)
    if launched.step % recipe.log_every == 0:
        forget_memory(state.device)
    return StepRecord(
        step=launched.step,
        loss=read["loss"],
        terms={k.removeprefix("terms/"): v for k, v in read.items() if k.startswith("terms/")},
        accuracy=accuracy,
        lr=launched.lr,
        grad_norm=read["grad_norm"],
        n_loops=max(launched.depths),
        given_loops=sum(launched.depths) / len(launched.depths),
        mean_loops=read["mean_loops"],
        level=launched.level,
        tokens=launched.tokens,
        scored_share=read["n_targets"] / launched.positions,
        epoch=epoch_of(source, launched.step),
        skipped=skipped,
        loss_scale=read.get("loss_scale"),
        rho_a=read.get("rho_a"),
        state_rms=read["state_rms"],
        **settling(read, max(launched.depths)),
        **routing(load),
        **measured,
    )


@torch.no_grad()
def judge(
    state: TrainState, loss: Tensor, norm: Tensor, skip_spikes: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Whether a step may move anything, on the device; what to report of it; the guards learn."""
    finite = (loss + norm).isfinite()
    kept, said = finite, {}
    if state.working.loss_scale is not None:
        said["loss_scale"] = state.working.loss_scale.scale
    state.working.settle(finite)
    if state.spikes is not None:
        kept = finite & state.spikes.calm(norm, skip_spikes)
        said["kept"] = kept
    return kept, said


def count_skip(state: TrainState, read: dict[str, float]) -> bool:
    """Whether a step moved nothing, by its numbers; counts it.

    In a row are counted those that are not finite. A gradient that is not, of a loss that is, does
    not count as long as the loss scale is above its floor: halving it may be all that is needed.
    """
    finite = math.isfinite(read["loss"]) and math.isfinite(read["grad_norm"])
    skipped = not (finite and read.get("kept", 1.0))
    state.skipped += skipped
    if finite:
        state.skipped_in_a_row = 0
    elif not (math.isfinite(read["loss"]) and read.get("loss_scale", FLOOR) > FLOOR):
        state.skipped_in_a_row += 1
    return skipped


def settling(read: dict[str, float], n_loops: int) -> dict[str, Any]:
    """What a record says of the way to the last state; nothing of a state that is zero."""
    first, last = read["first_rms"], read["state_rms"]
    found: dict[str, Any] = {}
    if n_loops > 1 and first > 0.0 and last > 0.0:
        found["state_growth"] = (last / first) ** (1.0 / (n_loops - 1))
    if "last_change" in read and last > 0.0:
        found["residual"] = read["last_change"] / last
    return found


def routing(load: Tensor) -> dict[str, Any]:
    """What a record says of the experts' loads (T, E); nothing where there are no experts."""
    if not load.shape[-1]:
        return {}
    entropy, peak = load_entropy(load), load_peak(load)
    return {
        "router_entropy": float(entropy.mean()),
        "router_peak": float(peak.max()),
        "router_dead": int(dead_experts(load.sum(0))),
        "entropy_by_loop": entropy.tolist(),
        "peak_by_loop": peak.tolist(),
        "dead_by_loop": dead_experts(load).tolist(),
    }


def epoch_of(source: BatchSource, step: int) -> float | None:
    """Passes over the data that the first `step` steps make; None where the source has no end."""
    epoch: Any = getattr(source, "epoch", None)
    return None if epoch is None else float(epoch(step))


def to_host(scalars: list[Tensor], table: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Scalars and a table as one float64 row on the host, and what to wait for before reading."""
    together = torch.cat(
        (torch.stack([s.detach().double() for s in scalars]), table.detach().double().flatten())
    )
    if not together.is_cuda:
        return together.cpu(), None
    host = torch.empty(together.shape, dtype=together.dtype, pin_memory=True)
    host.copy_(together, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived


def head_weight(model: nn.Module) -> Tensor:
    """The weight (vocab, dim) that turns a network's features into logits."""
    head: Any = model.head
    weight: Tensor = head.weight
    return weight


def balance(model: nn.Module, finite: Tensor, step_size: float) -> None:
    """Let the router's bias answer the load since the last call, or after a skip only forget it."""
    update: Any = getattr(model, "update_router_bias", None)
    if update is not None:
        update(step_size=finite * step_size)


def carry(model: nn.Module) -> dict[str, Tensor]:
    """rho(A) of the loop's injection, where it has one."""
    radius = spectral_radius(model)
    return {} if radius is None else {"rho_a": radius}


@torch.no_grad()
def spectral_radius(model: nn.Module) -> Tensor | None:
    """rho(A) of the loop's injection; None where the injection carries nothing over linearly."""
    injection: Any = getattr(getattr(model, "recurrent", None), "injection", None)
    diagonal = getattr(injection, "get_A", None)
    if diagonal is None:
        return None
    largest = diagonal().max()
    # Divided over ranks, it is the largest of this rank's part until they meet.
    gather = getattr(largest, "full_tensor", None)
    whole: Tensor = largest if gather is None else gather()
    return whole
