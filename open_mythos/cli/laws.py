"""`open-mythos laws`: a published law fitted to runs or to a table, with intervals."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from open_mythos.laws.fit import fit
from open_mythos.laws.intervals import Bootstrap, Interval, bootstrap
from open_mythos.laws.law import TEST_TIME, Law, law_called
from open_mythos.laws.points import Row, points_of, read_csv
from open_mythos.laws.runs import curve_rows, final_row


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is fitted, to what, and how sure it has to be.

    Attributes:
        law: Name of a law.
        sources: Run folders and CSV files, in any mixture.
        judge: The evaluator of the runs whose losses are taken.
        resamples: Refits that the intervals come from.
        level: How often an interval is to hold the truth.
        seed: Of the refits' noise.
        json_file: Where all numbers go.
        out: Where a picture goes.
    """

    law: str
    sources: Sequence[Path]
    judge: str
    resamples: int
    level: float
    seed: int
    json_file: Path | None
    out: Path | None


def run(options: Options) -> list[Bootstrap]:
    """Fit, print, and draw if asked.

    Raises:
        InputError: If the points cannot fix the law's constants, or a table or a run has none.
        CheckpointError: If a run folder has no readable metrics.
    """
    law = law_called(options.law)
    if options.out is not None:
        from open_mythos.cli.plot import check_picture  # noqa: PLC0415 -- imports torch, for plots

        check_picture(options.out)
    rows = [row for source in options.sources for row in rows_of(law, source, options.judge)]
    found = [
        bootstrap(fit(law, points), options.resamples, options.level, options.seed)
        for points in points_of(law, rows)
    ]
    for one in found:
        show(one)
    if options.json_file is not None:
        options.json_file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record(law, found), indent=2)
        options.json_file.write_text(text + "\n", encoding="utf-8")
        print(options.json_file)
    if options.out is not None:
        _draw(found, options.out)
    return found


def rows_of(law: Law, source: Path, judge: str) -> list[Row]:
    """The rows of a CSV file, or of the last evaluation in a run folder."""
    if source.suffix.lower() == ".csv":
        return read_csv(source)
    # Imported here, for they import torch, which a table does without.
    from open_mythos.train.checkpoints import RunFolder, read_recipe  # noqa: PLC0415 -- torch
    from open_mythos.train.sinks import read_metrics  # noqa: PLC0415 -- torch

    metrics = read_metrics(RunFolder(source).metrics_file)
    if law is TEST_TIME:
        return curve_rows(str(source), metrics, judge)
    recipe = read_recipe(source)
    return [final_row(str(source), metrics, recipe.model, recipe.depth.declared_mean, judge)]


def record(law: Law, found: Sequence[Bootstrap]) -> dict[str, Any]:
    """The fits as plain data."""
    return {
        "law": law.name,
        "equation": law.equation,
        "source": law.source,
        "fits": [
            {
                "name": one.fit.points.name,
                "points": len(one.fit.points),
                "level": one.level,
                "resamples": len(one),
                "constants": {
                    name: _entry(one.fit.constants[name], interval)
                    for name, interval in one.intervals().items()
                },
                "derived": {name: _entry(*pair) for name, pair in one.derived().items()},
                "rms_percent": 100.0 * one.fit.rms,
                "huber": one.fit.huber,
                "delta": one.fit.delta,
                "loss": one.fit.points.loss.tolist(),
                "fitted": one.fit.fitted.tolist(),
                "notes": one.notes(),
            }
            for one in found
        ],
    }


def show(found: Bootstrap) -> None:
    """Constants with their intervals, then how well the law fits."""
    fitted = found.fit
    console = Console()
    table = Table("", "value", f"{found.level:.0%} interval", title=fitted.points.name)
    rows = {n: (fitted.constants[n], interval) for n, interval in found.intervals().items()}
    for name, (value, interval) in (rows | found.derived()).items():
        table.add_row(name, f"{value:.5g}", f"{interval.low:.5g} .. {interval.high:.5g}")
    console.print(fitted.law.equation, highlight=False, markup=False)
    console.print(table)
    worst = fitted.residuals[abs(fitted.residuals).argmax()]
    print(f"{len(fitted.points)} points; residuals {fitted.rms:.3%} rms, {abs(worst):.3%} at worst")
    for note in found.notes():
        print(f"note: {note}")


def _entry(value: float, interval: Interval) -> dict[str, float]:
    return {"value": value, "low": interval.low, "high": interval.high}


def _draw(found: Sequence[Bootstrap], out: Path) -> None:
    from open_mythos.cli.plot import save_picture  # noqa: PLC0415 -- torch and matplotlib
    from open_mythos.report.law_figure import law_figure  # noqa: PLC0415 -- the same

    save_picture(law_figure(found), out)
    print(out)
