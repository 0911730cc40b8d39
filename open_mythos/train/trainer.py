"""The outer loop: when to step, evaluate, save and stop; everything else is passed in."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import nn

from open_mythos.errors import CheckpointError
from open_mythos.parallel.ranks import ALONE, Ranks, joined
from open_mythos.train.build import (
    build_model,
    build_state,
    find_device,
    refuse_small_vocabulary,
)
from open_mythos.train.checkpoints import RunFolder, Start, better, judged
from open_mythos.train.evaluation import Evaluator, judge
from open_mythos.train.interrupt import StopRequest
from open_mythos.train.recipe import Recipe
from open_mythos.train.records import EvalRecord, StepRecord
from open_mythos.train.saved import save_shards
from open_mythos.train.sinks import JsonlSink, RunInfo, SamplesSink, Sink
from open_mythos.train.sources import Sources, build_sources
from open_mythos.train.state import TrainState, own_rng
from open_mythos.train.step import Launched, finish, launch
from open_mythos.train.tracking import tracking_sinks


if TYPE_CHECKING:
    from open_mythos.checkpoint.sharded import Saving

Status = Literal["finished", "stopped", "out_of_time", "diverged"]


@dataclass(frozen=True)
class Parts:
    """What a run is put together from; replace one to train another network or on other data.

    Attributes:
        model: Recipe -> network; called with torch's generator seeded by recipe.seed.
        sources: Recipe -> training batches, and the tokenizer that checkpoints keep.
    """

    model: Callable[[Recipe], nn.Module] = build_model
    sources: Callable[[Recipe], Sources] = build_sources


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended.

    Attributes:
        status: "finished" (every step taken), "stopped" (a signal), "out_of_time" (max_seconds),
            "diverged" (too many non-finite steps in a row).
        step: Steps done in all.
        folder: The run's folder.
        checkpoint: The newest checkpoint, of exactly this step.
        model: The network as it is after the last step.
        record: The last step's record; None if this call took no step.
        evaluation: The last evaluation of this call.
        skipped: Non-finite steps of the whole run.
        signal: The signal that stopped it.
        seconds: Wall time of this call.
        notes: What the sinks were told.
    """

    status: Status
    step: int
    folder: Path
    checkpoint: Path
    model: nn.Module
    record: StepRecord | None
    evaluation: EvalRecord | None
    skipped: int
    signal: str | None
    seconds: float
    notes: tuple[str, ...]

    @property
    def message(self) -> str:
        """One sentence for the person who started the run."""
        again = "run again with --resume auto to go on"
        return {
            "finished": f"finished {self.step} steps; {self.checkpoint}",
            "stopped": f"stopped at step {self.step} ({self.signal}); {again}",
            "out_of_time": f"out of time at step {self.step}; {again}",
            "diverged": f"stopped at step {self.step}: loss or gradient was not finite for many "
            "steps in a row; the saved weights are the last good ones; lower optim.lr",
        }[self.status]


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: Start = "new",
    evaluators: Mapping[str, Evaluator] | None = None,
    sinks: Sequence[Sink] = (),
    max_seconds: float | None = None,
    parts: Parts | None = None,
) -> TrainResult:
    """Run a recipe, or go on with it, bit for bit as if it had never stopped.

    Args:
        recipe: What to run.
        out: The run's folder; metrics.jsonl and checkpoints go there.
        resume: "new", "resume", "auto" or "fresh": see RunFolder.begin.
        evaluators: Name -> function (model, step) -> numbers and texts, run every eval_every steps
            and at the end. They can change nothing: the generators are put back after them.
        sinks: Where records go, beside the run's own files and the trackers of recipe.log_to.
        max_seconds: Stop, saved, at the first step boundary after this wall time.
        parts: Another network or other data than the recipe's own.

    Raises:
        ConfigError: If the recipe does not fit its data, the saved run, or this machine.
        CheckpointError: If the folder's state is not what `resume` says, or cannot be read.
        MissingExtraError: If a tracker of recipe.log_to is not installed.
    """
    began = time.perf_counter()
    parts = parts or Parts()
    with ExitStack() as closing:
        ranks = closing.enter_context(joined(recipe.device))
        device = find_device(recipe.device, ranks)
        sources = parts.sources(recipe)
        source = sources.train
        refuse_small_vocabulary(recipe, source)
        folder = RunFolder(out)
        own: list[Sink] = [JsonlSink(folder.metrics_file), SamplesSink(folder.samples)]
        shown = [*own, *tracking_sinks(recipe), *sinks]
        loop = Loop(
            recipe=recipe,
            folder=folder,
            sources=sources,
            evaluators=evaluators or {},
            sinks=shown if ranks.first else [],
            ranks=ranks,
        )
        closing.enter_context(own_rng(device))
        stop = closing.enter_context(StopRequest())
        resumed = ranks.first_does(lambda: folder.begin(resume, recipe))
        # What a run starts from is of no account, and may be gone, once it has saved itself.
        saved = resumed and ranks.first_does(lambda: bool(folder.steps()))
        first = replace(recipe, init_from="") if saved else recipe
        state = build_state(first, source, device, parts.model, ranks)
        checkpoint = folder.restore(state, loop.notes.append, ranks) if resumed else None
        state.working.refresh()
        if ranks.first:
            folder.note_environment(device, state.step, recipe.seed, ranks.world)
        for sink in loop.sinks:
            closing.callback(sink.close)
        loop.open(state, checkpoint)
        deadline = None if max_seconds is None else began + max_seconds
        status = loop.run(state, stop, deadline)
        final = loop.close(state)
    return TrainResult(
        status=status,
        step=state.step,
        folder=folder.root,
        checkpoint=final,
        model=state.model,
        record=loop.record,
        evaluation=loop.evaluation,
        skipped=state.skipped,
        signal=stop.name,
        seconds=time.perf_counter() - began,
        notes=tuple(loop.notes),
    )


@dataclass
class Loop:
    """One call of `train`: its fixed parts, and the last of what it reported."""

    recipe: Recipe
    folder: RunFolder
    sources: Sources
    evaluators: Mapping[str, Evaluator]
    sinks: Sequence[Sink]
    ranks: Ranks = ALONE
    notes: list[str] = field(default_factory=list)
    record: StepRecord | None = None
    evaluation: EvalRecord | None = None
    saved: Path | None = None
    saving: "Saving | None" = None
    pending: Launched | None = None
    read_at: float = -math.inf

    def open(self, state: TrainState, checkpoint: Path | None) -> None:
        """Tell the sinks what is about to run, and what was found on disk."""
        self.saved = checkpoint
        info = RunInfo(
            recipe=self.recipe,
            folder=self.folder.root,
            start_step=state.step,
            device=str(state.device),
            n_parameters=state.n_parameters,
            say=self.note,
        )
        found = tuple(self.notes)
        for sink in self.sinks:
            sink.open(info)
        for text in found:
            self._tell(text)
        if checkpoint is not None:
            self.note(f"resumed at step {state.step}")
            # The run may have ended between this save and the evaluation that comes after it.
            if self.evaluation_due(state) and not self.folder.evaluated(state.step):
                self.evaluate(state)

    def run(self, state: TrainState, stop: StopRequest, deadline: float | None) -> Status:
        """Step until the recipe's last step, a signal, the deadline, or divergence."""
        while state.step < self.recipe.steps:
            # Decided together: a signal or a clock may reach one rank a step before another.
            if self.ranks.any(stop.name is not None):
                self.take(state)
                return "stopped"
            late = deadline is not None and time.perf_counter() >= deadline
            if deadline is not None and self.ranks.any(late):
                self.take(state)
                return "out_of_time"
            launched = launch(state, self.sources.train, self.recipe)
            self.saved = None
            self.take(state)
            self.pending = launched
            saves = due(state.step, self.recipe.save_every) or state.step == self.recipe.steps
            if not self.overlaps(state) or saves or self.evaluation_due(state):
                self.take(state)
            if state.skipped_in_a_row >= self.recipe.optim.max_skipped:
                self.take(state)
                return "diverged"
            # Saved first: an evaluation that fails then costs no step.
            if saves:
                self.save(state)
            if self.evaluation_due(state):
                self.evaluate(state)
        return "finished"

    def overlaps(self, state: TrainState) -> bool:
        """Whether a step's numbers are read while the next one runs.

        So it is on a GPU, unless the next batch depends on them.
        """
        return state.device.type == "cuda" and self.sources.train.max_level == 0

    def take(self, state: TrainState) -> None:
        """Wait for the step that is under way, if any, and report it."""
        if self.pending is None:
            return
        self.record = finish(state, self.pending, self.sources.train, self.recipe, self.read_at)
        self.pending, self.read_at = None, time.perf_counter()
        for sink in self.sinks:
            sink.step(self.record)

    def evaluation_due(self, state: TrainState) -> bool:
        """Whether the evaluators run after the step that was taken last."""
        return due(state.step, self.recipe.eval_every) or state.step == self.recipe.steps

    def save(self, state: TrainState) -> Path | None:
        """Write a checkpoint of the state as it is; None, and a note, where the disk refuses.

        A full disk then costs no step: the run goes on, the checkpoint before stays, and the next
        one that is due is tried. Several ranks write their parts together, beside training where
        `engine.async_save` says so.
        """
        self.settle()
        try:
            if self.ranks.world == 1:
                self.saved = self.folder.save(state, self.recipe, self.sources.tokenizer)
                return self.saved
            self.saved = self.folder.place(state.step)
            self.saving = save_shards(
                self.saved, state, self.recipe, self.sources.tokenizer, self.ranks
            )
        except OSError as error:
            self.saved = None
            self.note(f"step {state.step} could not be saved: {error}")
        if not self.recipe.engine.async_save:
            self.settle()
        return self.saved

    def settle(self) -> None:
        """Wait for the checkpoint that is being written beside training, and let it count."""
        if self.saving is None:
            return
        saving, self.saving = self.saving, None
        try:
            whole = saving.wait()
        except CheckpointError as error:  # raised on every rank if one could not write its part
            self.note(f"{saving.target.name} could not be saved: {error}")
            self.saved = None if self.saved == saving.target else self.saved
            return
        self.ranks.first_does(lambda: self.folder.admit(whole, self.recipe.keep_last))

    def close(self, state: TrainState) -> Path:
        """The checkpoint of exactly this state, written now if it is not there.

        Raises:
            CheckpointError: If it cannot be written.
        """
        self.settle()
        final = self.saved or self.save(state)
        self.settle()
        if final is None or self.saved is None:
            raise CheckpointError(
                f"step {state.step} is done but could not be saved ({self.notes[-1]}); make room "
                f"and resume: the newest checkpoint in {self.folder.root} is of an earlier step"
            )
        return final

    def evaluate(self, state: TrainState) -> None:
        """Run every evaluator on the model as it is, and report their numbers."""
        if not self.evaluators:
            return
        with state.spread.whole(state.model):
            found = judge(self.evaluators, state.working.model, state.step, state.device)
        # What follows from it must be the same on all ranks, to the last bit.
        self.evaluation = self.ranks.told(found)
        for sink in self.sinks:
            sink.evaluation(self.evaluation)
        self.keep_best(state, self.evaluation.values)

    def keep_best(self, state: TrainState, found: Mapping[str, float]) -> None:
        """Keep this step's checkpoint, made now if none was due, if evaluation likes it best."""
        by = self.recipe.best_by
        value = judged(found, by)
        best = self.ranks.first_does(self.folder.best)
        if value is None or not better(value, best, by):
            return
        saved = self.saved or self.save(state)
        self.settle()
        if saved is not None and self.saved is not None:
            self.ranks.first_does(lambda: self.folder.note_best(saved, by, value))

    def note(self, text: str) -> None:
        """Say something to every sink, and remember it."""
        self.notes.append(text)
        self._tell(text)

    def _tell(self, text: str) -> None:
        for sink in self.sinks:
            sink.note(text)


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps (0: never) happens after this one."""
    return every > 0 and step % every == 0
