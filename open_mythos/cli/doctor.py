"""`open-mythos doctor`: what is wrong with a trained loop, in words and numbers."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from open_mythos.checkpoint.files import write_text
from open_mythos.cli.opening import Opened, open_checkpoint
from open_mythos.cli.sweep import own_data, text_windows
from open_mythos.errors import InputError
from open_mythos.eval.doctor.findings import Finding, diagnose, sound
from open_mythos.eval.doctor.measurements import Measurements, examine
from open_mythos.eval.doctor.subject import Subject, subject
from open_mythos.eval.doctor.summary import numbers
from open_mythos.train.presets import recipe as named_recipe
from open_mythos.train.sources import build_sources


COLOURS = {"fault": "bold red", "warning": "yellow", "note": "cyan"}


def run(  # noqa: PLR0913 -- one argument per option
    *,
    checkpoint: Path,
    data: Path | None,
    recipe: str | None,
    loops: int | None,
    json_file: Path | None,
    out: Path | None,
    task: str | None = None,
    device: str = "auto",
) -> int:
    """Examine a model, say what was found, and return 1 if there is a fault, else 0."""
    opened = open_checkpoint(checkpoint, device).on_task(task)
    if out is not None:
        from open_mythos.report.doctor_page import doctor_page  # noqa: PLC0415 -- needs an extra
    measured = examine(opened.model, chosen(opened, data, recipe, loops))
    findings = diagnose(measured)
    if out is not None:
        _write(out, doctor_page(checkpoint.absolute().name, measured, findings))
    if json_file is not None:
        _write(json_file, json.dumps(to_json(measured, findings), indent=2) + "\n")
    show(measured, findings)
    return 0 if sound(findings) else 1


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def chosen(opened: Opened, data: Path | None, recipe: str | None, loops: int | None) -> Subject:
    """What to examine on: a text file, the held-out data of a named recipe, or of the run itself.

    Raises:
        InputError: If both are named, or the run's data cannot be made again.
    """
    if data is not None and recipe is not None:
        raise InputError("--data and --recipe name two things to examine on; give one of them")
    if data is not None:
        return subject(text_windows(opened, str(data)), opened.model.cfg, opened.recipe, loops)
    if recipe is None:
        return subject(own_data(opened), opened.model.cfg, opened.recipe, loops)
    named = named_recipe(recipe)
    held_out = build_sources(named).evaluation
    if held_out is None:
        raise InputError(f"recipe {recipe!r} holds nothing out; give --data FILE")
    if held_out.vocab_size > opened.model.cfg.vocab_size:
        raise InputError(
            f"recipe {recipe!r} has {held_out.vocab_size} tokens, the model "
            f"{opened.model.cfg.vocab_size}; name the recipe that it was trained with"
        )
    return subject(held_out, opened.model.cfg, opened.recipe or named, loops)


def to_json(measured: Measurements, findings: Sequence[Finding]) -> dict[str, object]:
    """Everything, as plain values."""
    return {
        "sound": sound(findings),
        "findings": [asdict(finding) for finding in findings],
        "measurements": measured.to_json(),
    }


def show(measured: Measurements, findings: Sequence[Finding]) -> None:
    """Findings, then numbers."""
    console = Console()
    for finding in findings:
        colour = COLOURS[finding.severity]
        console.print(f"[{colour}]{finding.severity}[/]  [bold]{finding.kind}[/]")
        for text in (finding.says, finding.helps):
            console.print(Padding(Text(text), (0, 0, 0, 4)))
    if sound(findings):
        console.print("[bold green]sound[/]  no fault was found")
    shown = Table("measured", "value", title="what was measured")
    for name, value in numbers(measured):
        shown.add_row(name, value)
    console.print(shown)
