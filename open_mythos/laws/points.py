"""Points: measured losses beside what they are a function of, from rows of a table."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from open_mythos.errors import InputError, did_you_mean
from open_mythos.laws.law import TEST_TIME, Array, Law


COLUMNS = ("loss", "loops", "mean_loops", "tokens", "params", "params_once", "params_looped")
RUN = "run"
# A network may have nothing outside its loop.
PARTS = ("params_once", "params_looped")
# What the parameters of the unrolled network follow from.
UNROLLED = ("mean_loops", *PARTS)


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        run: The network that it was made on.
        values: Column -> number: the loss, and what is known of the network and the reading.
        place: Where it stands, for messages.
    """

    run: str
    values: Mapping[str, float]
    place: str


@dataclass(frozen=True)
class Points:
    """What a law is fitted to.

    Attributes:
        name: Whose points they are.
        loss: In nats.
        inputs: Column -> its values: those of the law, and any other that all rows have.
    """

    name: str
    loss: Array
    inputs: Mapping[str, Array]

    def __post_init__(self) -> None:
        for column, values in {"loss": self.loss, **self.inputs}.items():
            if len(values) != len(self.loss):
                raise InputError(
                    f"{self.name} has {len(self.loss)} losses, but {len(values)} of {column}"
                )
            fine = np.isfinite(values) & ((values > 0) | ((values == 0) & (column in PARTS)))
            if not fine.all():
                raise InputError(
                    f"{self.name} has a {column} of {values[~fine][0]}; it must be positive"
                )

    def __len__(self) -> int:
        return len(self.loss)


def read_csv(path: str | Path) -> list[Row]:
    """The rows of a CSV file with named columns; without a column `run`, all are of one run.

    Raises:
        InputError: If the file cannot be read, lacks the column `loss`, has a column of an
            unknown name, or a cell that is no positive finite number.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    names = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    if "loss" not in names:
        raise InputError(f"{path} has no column 'loss', but {', '.join(names) or 'nothing'}")
    for name in names:
        if name not in (*COLUMNS, RUN):
            hint = did_you_mean(name, (*COLUMNS, RUN))
            raise InputError(f"{path} has a column {name!r}, which no law knows; {hint}")
    rows = []
    for cells in reader:
        place = f"line {reader.line_num} of {path}"
        if None in cells:
            raise InputError(f"{place} has more than the {len(names)} cells of the first line")
        filled = {k: v.strip() for k, v in cells.items() if k != RUN and v and v.strip()}
        values = {name: _number(cell, name, place) for name, cell in filled.items()}
        rows.append(Row((cells.get(RUN) or "").strip() or path.stem, values, place))
    return rows


def points_of(law: Law, rows: Iterable[Row]) -> list[Points]:
    """Rows as the law takes them: one curve for each run at test time, else all rows in one.

    `params`, the parameters of the unrolled network, follow where a row lacks them:
    params_once + mean_loops params_looped. `loops` and `mean_loops` stand for each other where a
    row has only one of them and each row is a network of its own.

    Raises:
        InputError: If there is no row, or one lacks what the law is a function of.
    """
    rows = list(rows)
    if not rows:
        raise InputError(f"there are no points to fit the law {law.name!r} to")
    if law is not TEST_TIME:
        return [_pack(law, law.name, [_completed(row) for row in rows])]
    runs = dict.fromkeys(row.run for row in rows)
    return [_pack(law, run, [row for row in rows if row.run == run]) for run in runs]


def _pack(law: Law, name: str, rows: Sequence[Row]) -> Points:
    for row in rows:
        for column in ("loss", *law.inputs):
            if column not in row.values:
                parts = f" (or {', '.join(UNROLLED)})" if column == "params" else ""
                raise InputError(
                    f"{row.place} has no {column!r}{parts}, which the law {law.name!r} is about: "
                    f"{law.equation}; columns are {', '.join((*COLUMNS, RUN))}"
                )
    shared = [c for c in COLUMNS if c != "loss" and all(c in row.values for row in rows)]
    inputs = {c: np.array([row.values[c] for row in rows]) for c in shared}
    return Points(name, np.array([row.values["loss"] for row in rows]), inputs)


def _completed(row: Row) -> Row:
    values = dict(row.values)
    for name, other in (("loops", "mean_loops"), ("mean_loops", "loops")):
        if name not in values and other in values:
            values[name] = values[other]
    if "params" not in values and set(UNROLLED) <= values.keys():
        values["params"] = values["params_once"] + values["mean_loops"] * values["params_looped"]
    return Row(row.run, values, row.place)


def _number(cell: str, column: str, place: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and (value > 0 or (value == 0 and column in PARTS))):
        raise InputError(f"{place}: {column} is {cell!r}; it must be a positive number")
    return value
