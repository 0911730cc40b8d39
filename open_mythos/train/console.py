"""ConsoleSink: a live line on a terminal, plain lines everywhere else."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from open_mythos.train.records import EvalRecord, StepRecord
from open_mythos.train.sinks import RunInfo


# Weight of the past in the shown loss: single steps of small batches jump too much to read.
SMOOTHING = 0.9
# Columns that bar, numbers and both times need; a narrower terminal gets the numbers and the ETA.
WIDE = 120


class ConsoleSink:
    """Shows a run to a person.

    On a terminal: a progress bar with loss, accuracy, tokens/s, loops, elapsed and remaining
    time. Without one (a log file, a pipe): a line every recipe.log_every steps.

    Attributes:
        console: Where to write; standard error, so that standard output stays for results.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._run: RunInfo | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._loss: float | None = None

    def open(self, run: RunInfo) -> None:
        """Say what is about to run, and raise the bar on a terminal."""
        self._run = run
        self._print(
            f"{run.recipe.name}: {run.n_parameters / 1e6:.2f}M parameters on {run.device}, "
            f"steps {run.start_step + 1} to {run.recipe.steps}, in {run.folder}"
        )
        if not self.console.is_terminal:
            return
        wide = self.console.width >= WIDE
        self._bar = Progress(
            *([BarColumn(bar_width=20)] if wide else []),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            *([TimeElapsedColumn()] if wide else []),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task(
            "", total=run.recipe.steps, completed=run.start_step, numbers=""
        )
        self._bar.start()

    def step(self, record: StepRecord) -> None:
        """Move the bar, or write the line when it is due."""
        assert self._run is not None, "open the sink first"
        if record.skipped:
            self.note(f"step {record.step}: loss or gradient is not finite; skipped")
        else:
            past = record.loss if self._loss is None else self._loss
            self._loss = SMOOTHING * past + (1.0 - SMOOTHING) * record.loss
        recipe = self._run.recipe
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=record.step, numbers=summary(record, self._loss))
        elif record.step % recipe.log_every == 0 or record.step == recipe.steps:
            self._print(f"step {record.step}/{recipe.steps}  {summary(record, self._loss)}")

    def evaluation(self, record: EvalRecord) -> None:
        """One line with every number."""
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in record.values.items())
        self._print(f"step {record.step}  {numbers}")

    def note(self, text: str) -> None:
        """One line."""
        self._print(text)

    def close(self) -> None:
        """Take the bar down; closing twice is harmless."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def summary(record: StepRecord, loss: float | None) -> str:
    """The numbers of a step that are worth a glance, in one short text."""
    shown = record.loss if loss is None else loss
    words = [
        f"loss {shown:.3f}",
        f"acc {record.accuracy:.3f}",
        f"{record.tokens_per_second:,.0f} tok/s",
    ]
    words.append(f"loops {record.n_loops}")
    if record.mean_loops < record.n_loops:
        words[-1] += f" (used {record.mean_loops:.1f})"
    if record.level:
        words.append(f"level {record.level}")
    return "  ".join(words)
