"""Where a run's records go: the protocol, and the file that every run writes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from open_mythos.checkpoint.files import write_text
from open_mythos.errors import CheckpointError
from open_mythos.train.recipe import Recipe
from open_mythos.train.records import EvalRecord, StepRecord, to_json


@dataclass(frozen=True)
class RunInfo:
    """What a sink may want to know before the first record.

    Attributes:
        recipe: The run's recipe.
        folder: The run's folder.
        start_step: Steps already done: 0, or those of the checkpoint that is resumed.
        device: The device, as text.
        n_parameters: Parameters of the model, tied ones once.
    """

    recipe: Recipe
    folder: Path
    start_step: int
    device: str
    n_parameters: int


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


def cut_after(path: Path, step: int) -> None:
    """Keep the lines of a metrics file up to `step`; a torn last line, as a kill leaves, goes too.

    Raises:
        CheckpointError: If a line before the last is no record.
    """
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept: list[str] = []
    for number, line in enumerate(lines, start=1):
        try:
            here = int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise CheckpointError(
                f"line {number} of {path} is no record: {line[:60]!r}; mend or move the file"
            ) from None
        if here <= step:
            kept.append(line)
    write_text(path, "".join(f"{line}\n" for line in kept))
