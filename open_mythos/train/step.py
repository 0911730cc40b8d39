"""One training step: batch, forward, loss, backward, clip, update, balance; and its record."""

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from open_mythos.data.batch import BatchSource
from open_mythos.model.output import ForwardOutput
from open_mythos.nn.moe.balance import load_entropy
from open_mythos.train.curriculum import advance
from open_mythos.train.depth import sample_depth
from open_mythos.train.objective import objective
from open_mythos.train.optim import clip_gradients, set_learning_rate
from open_mythos.train.recipe import Recipe
from open_mythos.train.records import StepRecord
from open_mythos.train.schedule import learning_rate
from open_mythos.train.state import TrainState


def train_step(state: TrainState, source: BatchSource, recipe: Recipe) -> StepRecord:
    """Take one step and move `state` on by it.

    Everything that is drawn comes from (recipe.seed, state.step), dropout aside, whose generator
    is part of the state. A step whose loss or gradient is not finite moves no parameter, is
    counted, and is passed over: its data is not tried again.
    """
    began = time.perf_counter()
    model, level = state.model, state.curriculum.level
    batch = source.batch(state.step, level).to(state.device)
    n_loops = batch.n_loops or sample_depth(recipe.depth, recipe.seed, state.step)
    lr = learning_rate(recipe.optim, state.step, recipe.steps)

    output: ForwardOutput = model.train()(batch.ids, n_loops, return_output=True)
    terms = objective(output, batch.targets, recipe.objective)
    total = terms.total
    total.backward()
    norm = clip_gradients(model, recipe.optim.clip)
    loss, grad_norm, *parts = values(total, norm, *terms.parts.values())
    skipped = not (math.isfinite(loss) and math.isfinite(grad_norm))
    if not skipped:
        set_learning_rate(state.optimizer, lr)
        state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    balance(model, 0.0 if skipped else recipe.router_bias_step)

    accuracy = float(terms.correct) / terms.n_targets
    state.step += 1
    state.tokens += batch.ids.numel()
    state.skipped += skipped
    state.skipped_in_a_row = state.skipped_in_a_row + 1 if skipped else 0
    if batch.level in (0, level):  # easier rows say nothing of the level that is being learnt
        state.curriculum = advance(state.curriculum, accuracy, recipe.curriculum, source.max_level)
    return StepRecord(
        step=state.step,
        loss=loss,
        terms=dict(zip(terms.parts, parts, strict=True)),
        accuracy=accuracy,
        lr=lr,
        grad_norm=grad_norm,
        n_loops=n_loops,
        level=level,
        tokens=state.tokens,
        skipped=skipped,
        rho_a=spectral_radius(model),
        **observations(output),
        tokens_per_second=batch.ids.numel() / (time.perf_counter() - began),
    )


def values(*scalars: Tensor) -> list[float]:
    """Scalars as numbers, with one wait for the device instead of one each."""
    taken: list[float] = torch.stack([s.detach().float() for s in scalars]).tolist()
    return taken


def balance(model: nn.Module, step_size: float) -> None:
    """Let the router's bias answer the load since the last call; step 0 only forgets the load."""
    update: Any = getattr(model, "update_router_bias", None)
    if update is not None:
        update(step_size=step_size)


def spectral_radius(model: nn.Module) -> float | None:
    """rho(A) of the loop's injection; None where the injection carries nothing over linearly."""
    injection = getattr(getattr(model, "recurrent", None), "injection", None)
    radius: Any = getattr(injection, "spectral_radius", None)
    return None if radius is None else float(radius())


def observations(output: ForwardOutput) -> dict[str, Any]:
    """What a pass says about its own loops, as fields of a StepRecord."""
    mean_loops, state_rms = values(output.loops_used.float().mean(), output.state_rms[-1])
    load = output.router_load.detach().cpu().double()
    return {
        "mean_loops": mean_loops,
        "state_rms": state_rms,
        "router_entropy": float(load_entropy(load).mean()),
        "router_peak": load_peak(load),
    }


def load_peak(load: Tensor) -> float:
    """Load of the busiest expert over the mean load, in the worst loop of (T, E); 1 is even."""
    mean = load.mean(-1, keepdim=True)
    return float((load / mean.clamp(min=torch.finfo(load.dtype).tiny)).max())
