"""`open-mythos calibrate`: from a budget of quality to the exit that loops least."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from open_mythos.checkpoint.exit_file import StoredExit, write_exit
from open_mythos.checkpoint.files import write_json, write_text
from open_mythos.checkpoint.store import stored_dtype
from open_mythos.cli.opening import Opened, open_checkpoint
from open_mythos.cli.sweep import own_data, text_windows
from open_mythos.data.batch import Batch
from open_mythos.data.chat_rows import ChatRows
from open_mythos.data.tasks.task import Task
from open_mythos.data.windows import TokenWindows
from open_mythos.errors import ConfigError, InputError
from open_mythos.eval.accuracy import those_with_room
from open_mythos.eval.calibration import Calibration, Metric, calibrate
from open_mythos.model.leaving import untrained
from open_mythos.nn.loop.exits.criterion import Criterion
from open_mythos.nn.loop.exits.registry import EXITS, exit_kind
from open_mythos.report.exit_table import exit_rows, overthinking_words
from open_mythos.train.depth import expected_depth


@dataclass(frozen=True)
class Parts:
    """Held-out data in two parts that share no row.

    Attributes:
        fit: Rows that thresholds are fitted on.
        verify: Rows that they are held to.
        metric: What quality is.
        n_loops: The full depth.
        data: What it is, for people.
    """

    fit: Sequence[Batch]
    verify: Sequence[Batch]
    metric: Metric
    n_loops: int
    data: str


def run(  # noqa: PLR0913 -- one argument per option
    *,
    checkpoint: Path,
    data: Path | None,
    budget: str,
    exits: str,
    n_loops: int | None,
    batches: int,
    json_file: Path | None,
    out: Path | None,
    task: str | None = None,
    device: str = "auto",
) -> int:
    """Calibrate, print, and store the chosen exit beside the model; 1 if none keeps the budget."""
    allowed = parse_budget(budget)
    opened = open_checkpoint(checkpoint, device).on_task(task)
    kinds, left_out = chosen_kinds(exits, opened)
    parts = held_out_parts(opened, data, n_loops, batches)
    found = calibrate(
        opened.model,
        parts.fit,
        parts.verify,
        kinds,
        n_loops=parts.n_loops,
        budget=allowed,
        metric=parts.metric,
    )
    lines = story(found, parts, left_out)
    if found.chosen is not None:
        path = write_exit(
            opened.folder, stored(found, parts, stored_dtype(opened.model.state_dict()))
        )
        lines.append(f"Stored in {path}: use exit='calibrated'.")
    show(found, lines, opened.folder, out)
    if json_file is not None:
        write_json(json_file, {"data": parts.data, **found.to_json()})
    return 0 if found.chosen is not None else 1


def parse_budget(text: str) -> float:
    """`0.5%` or `0.005` -> 0.005.

    Raises:
        ConfigError: If it is no share between 0 and 1.
    """
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number) / (100.0 if percent else 1.0)
    except ValueError:
        raise ConfigError(f"--budget {text!r} is no number; write 0.5% or 0.005") from None
    if not 0.0 < value < 1.0:
        raise ConfigError(f"--budget {text!r} must lie between 0 and 100 %, as 0.5% or 0.005")
    return value


def chosen_kinds(exits: str, opened: Opened) -> tuple[list[type[Criterion]], list[str]]:
    """The exits of `all`, or of names with commas between; and what `all` leaves out.

    Raises:
        ConfigError: If a name is unknown.
        InputError: If one needs a gate that nobody trained.
    """
    model = opened.model
    gateless = model.cfg.readout == "last" and untrained(model.recurrent.act)
    if exits == "all":
        kinds = [kind for kind in EXITS.values() if not (kind.gated and gateless)]
        return kinds, [name for name, kind in EXITS.items() if kind not in kinds]
    named = [exit_kind(name.strip()) for name in exits.split(",")]
    for kind in named:
        if kind.gated and gateless:
            raise InputError(
                f"exit {kind.name!r} needs a gate, and nobody trained this model's; train with "
                "objective.gate_entropy, or leave it out"
            )
    return list(dict.fromkeys(named)), []


def held_out_parts(opened: Opened, data: Path | None, n_loops: int | None, batches: int) -> Parts:
    """Two parts of a text, or of what the model's own run held out: every other batch each."""
    held_out = own_data(opened) if data is None else text_windows(opened, str(data))
    if isinstance(held_out, TokenWindows | ChatRows):
        rows = list(islice(held_out.evaluation_batches(), 2 * batches))
        if len(rows) < 2:
            raise InputError(
                "the held-out text fills one batch, but thresholds are fitted on one part and held "
                "to another; give a longer text with --data"
            )
        name = "the run's held-out text" if data is None else data.name
        return Parts(rows[::2], rows[1::2], "loss", depth(opened, None, n_loops), name)
    levels = those_with_room(
        held_out, range(1, held_out.max_level + 1), opened.model.cfg.max_seq_len
    )
    drawn = [
        held_out.evaluation_batch(levels[seed // 2 % len(levels)], seed=seed)
        for seed in range(2 * max(batches, len(levels)))
    ]
    name = f"held-out rows of {levels[0]} to {levels[-1]} {held_out.unit}"
    return Parts(drawn[::2], drawn[1::2], "accuracy", depth(opened, held_out, n_loops), name)


def depth(opened: Opened, task: Task | None, n_loops: int | None) -> int:
    """The full depth: what is asked for, what the task grants, what the run means, or the model."""
    if n_loops is not None:
        return n_loops
    granted = None if task is None else task.loops_for(task.max_level)
    if granted is not None:
        return granted
    if opened.recipe is not None:
        return max(1, round(expected_depth(opened.recipe.depth)))
    return opened.model.cfg.max_loop_iters


def stored(found: Calibration, parts: Parts, dtype: str) -> StoredExit:
    """What goes into exit.json; scores are those of weights in `dtype`."""
    assert found.chosen is not None
    one = found.exits[found.chosen]
    assert one.verified is not None
    measured: dict[str, Any] = {
        "data": parts.data,
        "dtype": dtype,
        "full": found.full,
        "work": one.work,
        "ran": one.ran,
        "verified": asdict(one.verified),
        "fitted": None if one.fitted is None else asdict(one.fitted),
    }
    return StoredExit(
        exit=EXITS[found.chosen](one.verified.threshold),
        n_loops=found.n_loops,
        budget=found.budget,
        metric=found.metric,
        measured=measured,
    )


def story(found: Calibration, parts: Parts, left_out: Sequence[str]) -> list[str]:
    """What was done and found, in sentences."""
    lines = [
        f"{parts.data}: {found.metric} {found.full:.4f} at the full {found.n_loops} loops; a loss "
        f"of {found.budget:.2%} is allowed, noise included ('at most': 95 %).",
        "Work is FLOPs of loops and predictions over the full depth's loops, all that have left "
        "being skipped; 'ran' is what ran here, padding and unscored positions included.",
    ]
    if left_out:
        lines.append(f"Left out, since nobody trained a gate: {', '.join(left_out)}.")
    if found.chosen is None:
        lines.append("No exit keeps the budget; nothing was stored.")
    else:
        one = found.exits[found.chosen]
        assert one.verified is not None
        lines.append(
            f"Chosen: {found.chosen} at {one.verified.threshold:.4g}, "
            f"{one.verified.mean_loops:.2f} of {found.n_loops} loops."
        )
    return lines


def show(found: Calibration, lines: Sequence[str], folder: Path, out: Path | None) -> None:
    """Print the table; a page or a picture, if one is wanted."""
    header, *rows = exit_rows(found)
    shown = Table(*header, title="exits, as verified")
    for row in rows:
        shown.add_row(*row)
    console = Console()
    console.print(shown)
    for line in [*lines, *overthinking_words(found)]:
        console.print(line, soft_wrap=True, highlight=False)
    if out is None:
        return
    from open_mythos.report.exit_figure import (  # noqa: PLC0415 -- matplotlib is an extra
        exit_figure,
        exit_page,
    )

    if out.suffix == ".html":
        write_text(out, exit_page(found, f"Exits of {folder.name}", lines))
    else:
        exit_figure(found).savefig(out)
