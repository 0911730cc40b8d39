"""Passes: how a step's batch is divided over ranks and passes, and how their numbers become one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from open_mythos.data.batch import Batch
from open_mythos.errors import ConfigError, InputError
from open_mythos.model.output import ForwardOutput
from open_mythos.parallel.spread import Spread
from open_mythos.train.depth import deal, sample_depths
from open_mythos.train.objective import Terms
from open_mythos.train.recipe import Recipe


@dataclass(frozen=True)
class StepPlan:
    """How a step's batch is read.

    Attributes:
        rows: The rows of each forward and backward pass of this rank; (None,) is the whole batch
            at once. Every rank makes equally many passes, since they meet in each.
        depths: Loops of every row of the step, on all ranks; None where all rows have the same.
    """

    rows: tuple[Sequence[int] | None, ...]
    depths: tuple[int, ...] | None = None

    def loops(self, index: int) -> list[int] | None:
        """Loops of the rows of one pass; None where all rows of the step have the same."""
        rows = self.rows[index]
        if self.depths is None:
            return None
        return list(self.depths) if rows is None else [self.depths[row] for row in rows]


def plan_step(recipe: Recipe, step: int, spread: Spread) -> StepPlan:
    """Rows in order where all have the same depth; dealt by their depths where each has its own.

    Raises:
        ConfigError: If the batch cannot be divided evenly over the ranks.
    """
    size, world = recipe.data.batch_size, spread.data_world
    if size % world:
        raise ConfigError(
            f"data.batch_size is {size}, which {world} ranks that read data cannot share evenly; "
            f"make it a multiple of {world}"
        )
    own = size // world
    at_once = min(recipe.engine.micro_batch or own, own)
    if recipe.depth.per == "sequence":
        passes = -(-own // at_once)
        depths = sample_depths(recipe.depth, recipe.seed, step, None, size)
        hands = deal(depths, world * passes)
        first = spread.data_rank * passes
        return StepPlan(tuple(hands[first : first + passes]), tuple(depths))
    if at_once == own and world == 1:
        return StepPlan((None,))
    first = spread.data_rank * own
    starts = range(first, first + own, at_once)
    return StepPlan(tuple(range(start, min(start + at_once, first + own)) for start in starts))


def count_scored(parts: Sequence[Batch], device: torch.device, spread: Spread) -> Tensor | None:
    """Scored positions of the whole step, on the device; None where one pass holds them all.

    Raises:
        InputError: If there are none, where that is known without waiting for a device or a rank.
    """
    on_host = all(part.targets.device.type == "cpu" for part in parts)
    if on_host and spread.data_world == 1 and not any(part.scored for part in parts):
        count = sum(part.targets.numel() for part in parts)
        raise InputError(f"none of the {count} targets is scored")
    if len(parts) == 1 and spread.data_world == 1:
        return None
    if on_host:  # filled in by a kernel: a copy from the host would wait for the device
        here = torch.full((), sum(p.scored for p in parts), dtype=torch.float64, device=device)
    else:
        here = torch.stack([p.scored_on_device.double() for p in parts]).sum()
    return spread.sum(here)


class Tally:
    """What the passes of one step say, added up on the device."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._names: tuple[str, ...] = ()
        self._scalars: Tensor | None = None
        self._load: Tensor | None = None

    def add(
        self, output: ForwardOutput, terms: Terms, share: Tensor | None, rows_share: float
    ) -> None:
        """Take in one pass.

        Args:
            output: What the network says of it.
            terms: Its loss.
            share: Its scored positions over those of the step; None is all of them.
            rows_share: Its rows over those of the step.
        """
        whole = 1.0 if share is None else share
        said = {
            "loss": terms.total * whole,
            "correct": terms.correct,
            "n_targets": terms.n_targets,
            "mean_loops": output.loops_used.double().mean() * rows_share,
            "state_rms": output.state_rms[-1] * rows_share,
            "first_rms": output.state_rms[0] * rows_share,
            **last_change(output, rows_share),
            **{f"terms/{name}": part * whole for name, part in terms.parts.items()},
        }
        scalars = torch.stack([value.detach().double() for value in said.values()])
        load = output.router_load.detach().double()
        if self._scalars is None or self._load is None:
            self._names, self._scalars, self._load = tuple(said), scalars, load
        else:
            self._scalars = self._scalars + scalars
            self._load = _deeper(self._load, load) + _deeper(load, self._load)

    def summed(self, spread: Spread) -> tuple[dict[str, Tensor], Tensor]:
        """Scalars by name, and the router's load (T, E), of the whole step over all ranks."""
        assert self._scalars is not None, "a step has at least one pass"
        assert self._load is not None
        spread.sum(self._scalars)
        spread.sum(self._load)
        return dict(zip(self._names, self._scalars.unbind(), strict=True)), self._load


def last_change(output: ForwardOutput, rows_share: float) -> dict[str, Tensor]:
    """What the last loop changed of the state; nothing of a network that does not say."""
    change = output.state_change
    return {} if change is None else {"last_change": change[-1] * rows_share}


def _deeper(load: Tensor, other: Tensor) -> Tensor:
    """`load` with rows of zeros for the loops that only `other` ran."""
    return F.pad(load, (0, 0, 0, max(other.shape[0] - load.shape[0], 0)))
