"""Results as plain JSON: runs (what was run, on what), and rows (what was found)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from open_mythos.checkpoint.files import read_json, write_text
from open_mythos.errors import InputError


FORMAT = 1
DIGITS = 6

Status = Literal["ok", "error", "skipped"]
Key = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Figure:
    """One number with its unit, and the single measurements that it is the median of.

    Attributes:
        value: The number.
        unit: What it counts, e.g. "ms"; "1" for a ratio.
        samples: Every measurement, in the order taken; empty for a derived number.
    """

    value: float
    unit: str
    samples: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values with as many digits as a clock has."""
        plain: dict[str, Any] = {"value": rounded(self.value), "unit": self.unit}
        if self.samples:
            plain["samples"] = [rounded(sample) for sample in self.samples]
        return plain


Figures = Mapping[str, Figure]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one case found about one contender.

    Attributes:
        suite: The suite it belongs to.
        size: Name of the size that was measured.
        attn: "gqa", "mla", or "" where attention plays no part.
        case: What was measured.
        who: Which library, or which implementation.
        status: "ok", "error" (then `note` says which) or "skipped" (no time was left).
        run: Index of the run that measured it.
        part: The case that found it, which may find several rows.
        shape: Batch, length, loops and the like.
        figures: Name -> number.
        detail: Further lines, as in a profile.
        note: What a reader has to know.
    """

    suite: str
    size: str
    attn: str = ""
    case: str
    who: str = ""
    status: Status = "ok"
    run: int = 0
    part: str = ""
    shape: Mapping[str, Any] = field(default_factory=dict)
    figures: Figures = field(default_factory=dict)
    detail: Sequence[Mapping[str, Any]] = ()
    note: str = ""

    @property
    def key(self) -> Key:
        """What a later measurement of the same thing has in common with this one."""
        return self.suite, self.size, self.attn, self.case, self.who

    def to_json(self) -> dict[str, Any]:
        """Plain values; empty parts are left out."""
        plain = {**asdict(self), "figures": {k: f.to_json() for k, f in self.figures.items()}}
        return {k: v for k, v in plain.items() if v not in ("", {}, (), [])}


class Document:
    """A results file in memory: rows in the order found, one for each key."""

    def __init__(self) -> None:
        """No runs, no rows."""
        self.runs: list[dict[str, Any]] = []
        self.rows: dict[Key, Row] = {}

    def begin(self, run: Mapping[str, Any]) -> int:
        """Note what is about to run; the index goes into its rows."""
        self.runs.append(dict(run))
        return len(self.runs) - 1

    def put(self, row: Row) -> None:
        """Add a row, in place of an older one about the same thing.

        A row that failed or was skipped does not push out one that has figures.
        """
        old = self.rows.get(row.key)
        if old is None or row.status == "ok" or old.status != "ok":
            self.rows.pop(row.key, None)
            self.rows[row.key] = row

    def merge(self, other: "Document") -> None:
        """Take over another document's runs and rows; where both have a row, the other's stays."""
        shift = len(self.runs)
        self.runs.extend(other.runs)
        for row in other.rows.values():
            self.put(Row(**{**vars(row), "run": row.run + shift}))

    def find(self, suite: str, size: str, attn: str, case: str, who: str) -> Row | None:
        """The row with these names, if it has figures."""
        row = self.rows.get((suite, size, attn, case, who))
        return row if row is not None and row.status == "ok" else None

    def save(self, path: Path) -> None:
        """Write everything, atomically; a line for each run and row."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [row.to_json() for row in self.rows.values()]
        parts = [f'"format": {FORMAT}', f'"runs": {_lines(self.runs)}', f'"rows": {_lines(rows)}']
        write_text(path, "{" + ",\n".join(parts) + "}\n")


def _lines(values: Iterable[Any]) -> str:
    return "[\n" + ",\n".join(json.dumps(value, allow_nan=False) for value in values) + "\n]"


def load(path: Path) -> Document:
    """Read a results file.

    Raises:
        CheckpointError: If it cannot be read.
        InputError: If it is no results file, or of another format.
    """
    plain = read_json(path)
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise InputError(f"{path} is no results file of format {FORMAT}; measure anew with --out")
    document = Document()
    document.runs = list(plain["runs"])
    for line in plain["rows"]:
        figures = {
            name: Figure(f["value"], f["unit"], tuple(f.get("samples", ())))
            for name, f in line.get("figures", {}).items()
        }
        document.put(Row(**{**line, "figures": figures}))
    return document


def load_all(paths: Iterable[Path]) -> Document:
    """Several results files as one; where two have the same row, the later file's counts.

    Raises:
        CheckpointError: If one cannot be read.
        InputError: If one is no results file.
    """
    whole = Document()
    for path in paths:
        whole.merge(load(path))
    return whole


def rounded(value: float) -> float:
    """`value` to six digits, which is more than any clock here has."""
    return float(f"{value:.{DIGITS}g}")
