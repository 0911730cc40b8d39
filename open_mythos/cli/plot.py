"""`open-mythos plot`: the curves of one or more runs as a picture."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from open_mythos.errors import InputError
from open_mythos.report.figures import Figure
from open_mythos.report.run_figure import run_figure
from open_mythos.train.checkpoints import RunFolder
from open_mythos.train.sinks import read_metrics


SUFFIXES = (".png", ".svg", ".pdf")
DOTS_PER_INCH = 130


def run(*, runs: Sequence[Path], out: Path | None) -> Path:
    """Draw, and say where.

    Raises:
        InputError: If no run has a step, or `out` is no kind of picture.
        CheckpointError: If a run has no readable metrics.
    """
    target = out or (runs[0] / "curves.png" if len(runs) == 1 else Path("curves.png"))
    check_picture(target)
    found = {
        name: read_metrics(RunFolder(run).metrics_file)
        for name, run in zip(labels(runs), runs, strict=True)
    }
    save_picture(run_figure(found), target)
    print(target)
    return target


def check_picture(target: Path) -> None:
    """Refuse a name that is no picture's, before the work is done.

    Raises:
        InputError: If it ends in none of the known ways.
    """
    if target.suffix not in SUFFIXES:
        raise InputError(f"--out {target} ends in none of {', '.join(SUFFIXES)}")


def save_picture(figure: Figure, target: Path) -> None:
    """Write a figure, into a folder that need not be there yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=DOTS_PER_INCH)


def labels(runs: Sequence[Path]) -> list[str]:
    """The folders' names; their paths where two have one name."""
    count = Counter(run.absolute().name for run in runs)
    return [run.absolute().name if count[run.absolute().name] == 1 else str(run) for run in runs]
