"""Where a run's records go: the protocol, and the files that every run writes."""

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from open_mythos.checkpoint.files import write_text
from open_mythos.errors import CheckpointError
from open_mythos.train.recipe import Recipe
from open_mythos.train.records import EvalRecord, StepRecord, to_json


# Points that are enough for any curve on a screen; a dashboard of all steps of a long run is slow.
POINTS = 10_000
SAMPLE_FILE = re.compile(r"step_(\d{7,})\.txt")


def unheard(text: str) -> None:
    """Where a note goes that nobody listens to."""


@dataclass(frozen=True)
class RunInfo:
    """What a sink may want to know before the first record.

    Attributes:
        recipe: The run's recipe.
        folder: The run's folder.
        start_step: Steps already done: 0, or those of the checkpoint that is resumed.
        device: The device, as text.
        n_parameters: Parameters of the model, tied ones once.
        say: Tells the person who started the run, once, what a sink has to say.
    """

    recipe: Recipe
    folder: Path
    start_step: int
    device: str
    n_parameters: int
    say: Callable[[str], None] = field(default=unheard, compare=False)


class Sink(Protocol):
    """Takes a run's records as they come; knows nothing of training."""

    def open(self, run: RunInfo) -> None:
        """The run is about to take its first step."""
        ...

    def step(self, record: StepRecord) -> None:
        """A step was taken."""
        ...

    def evaluation(self, record: EvalRecord) -> None:
        """The evaluators have run."""
        ...

    def note(self, text: str) -> None:
        """Something that a person should read: resumed, saved, damaged, stopped."""
        ...

    def close(self) -> None:
        """The run is over, for whatever reason."""
        ...


class JsonlSink:
    """metrics.jsonl: one line per record, no step twice however often the run was resumed.

    Attributes:
        path: The file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None

    def open(self, run: RunInfo) -> None:
        """Drop what was written after the step that is resumed, and go on from there."""
        cut_after(self.path, run.start_step)
        self._file = self.path.open("a", encoding="utf-8", newline="\n")

    def step(self, record: StepRecord) -> None:
        """One line."""
        self._write(record)

    def evaluation(self, record: EvalRecord) -> None:
        """One line."""
        self._write(record)

    def note(self, text: str) -> None:
        """Nothing: the file holds numbers only."""

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, record: StepRecord | EvalRecord) -> None:
        assert self._file is not None, "open the sink first"
        # Flushed line by line: a killed run then lacks at most the step it was in.
        self._file.write(json.dumps(to_json(record), allow_nan=False) + "\n")
        self._file.flush()


class SamplesSink:
    """samples/step_0000200.txt: what the model wrote at each evaluation, to be read by people.

    Attributes:
        folder: Where the files go; made when there is a first one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def open(self, run: RunInfo) -> None:
        """Drop what was written after the step that is resumed."""
        for path in self.folder.glob("step_*.txt"):
            match = SAMPLE_FILE.fullmatch(path.name)
            if match and int(match[1]) > run.start_step:
                path.unlink()

    def step(self, record: StepRecord) -> None:
        """Nothing."""

    def evaluation(self, record: EvalRecord) -> None:
        """One file, where there are samples."""
        if record.texts:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = "\n\n".join(f"--- {name}\n{text}" for name, text in record.texts.items())
            write_text(self.folder / f"step_{record.step:07d}.txt", f"{text}\n")

    def note(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def thinned(step: int, steps: int) -> bool:
    """Whether a step of a run of so many is among the ones that a dashboard shows."""
    return step % math.ceil(steps / POINTS) == 0 or step == steps


def logged(step: int, recipe: Recipe) -> bool:
    """Whether a step is one of every recipe.log_every, or the last."""
    return step % recipe.log_every == 0 or step == recipe.steps


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a metrics file, a torn last line left out: the run may still be writing.

    Raises:
        CheckpointError: If there is no such file, or a line before the last is no record.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}; is it a run folder's?") from None
    return [record for _, record in records(lines, path)]


def records(lines: Sequence[str], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a metrics file with what they say; a torn last line, as a kill leaves, is not.

    Raises:
        CheckpointError: If a line before the last is no record.
    """
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            int(record["step"])
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                return
            raise CheckpointError(
                f"line {number} of {path} is no record: {line[:60]!r}; mend or move the file"
            ) from None
        yield line, record


def cut_after(path: Path, step: int) -> None:
    """Keep the lines of a metrics file up to `step`; a torn last line, as a kill leaves, goes too.

    Raises:
        CheckpointError: If a line before the last is no record.
    """
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line, record in records(lines, path) if int(record["step"]) <= step]
    write_text(path, "".join(f"{line}\n" for line in kept))
