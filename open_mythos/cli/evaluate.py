"""`open-mythos eval`: tasks against loops, by our own scorers or by the lm-evaluation-harness."""

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from open_mythos.cli.opening import Opened, open_checkpoint
from open_mythos.errors import InputError, MissingExtraError
from open_mythos.eval.loop_curve import check_loops
from open_mythos.eval.offline_scores import score_offline
from open_mythos.eval.offline_tasks import OFFLINE
from open_mythos.eval.score_table import ScoreTable


@dataclass(frozen=True)
class Asked:
    """What is to be scored.

    Attributes:
        tasks: Names; none are the offline ones.
        loops: Numbers of loops as typed; none are 1 and the model's own.
        exit: Where positions leave the loop early.
        limit: Items of each task; None is all.
        harness: Whether lm-eval scores the offline tasks too.
        include: A folder with more tasks of lm-eval's kind.
        server: Address of a server that runs the model, which lm-eval then asks.
        window: Positions of one window of a longer text, where lm-eval scores here.
        quantised: "int8" or "int4" to hold the weights so.
    """

    tasks: tuple[str, ...] = ()
    loops: str = ""
    exit: str | None = None
    limit: int | None = None
    harness: bool = False
    include: Path | None = None
    server: str | None = None
    window: int | None = None
    quantised: str | None = None


def run(asked: Asked, *, checkpoint: Path, device: str, as_json: bool) -> None:
    """Score, and print a table with a column per number of loops.

    Raises:
        InputError: If a task or a number of loops is none, or the model has no tokenizer.
        MissingExtraError: If a task is lm-eval's, which is not installed.
    """
    opened = open_checkpoint(checkpoint, device, asked.quantised)
    numbers = loops_of(asked.loops, opened.model.cfg.max_loop_iters)
    table = score(asked, opened, numbers)
    if as_json:
        print(json.dumps(table.to_json(), indent=2))
        return
    Console().print(shown(table))


def score(asked: Asked, opened: Opened, loops: tuple[int, ...]) -> ScoreTable:
    """By our own scorers where all tasks are ours, else by the harness."""
    names = asked.tasks or tuple(OFFLINE)
    tokenizer = opened.tokenizer
    own = not asked.harness and asked.server is None and asked.window is None
    if own and all(name in OFFLINE for name in names):
        return score_offline(
            opened.model, tokenizer, names, loops, exit=asked.exit, limit=asked.limit
        )
    try:
        harness = import_module("open_mythos.eval.harness")
    except ImportError as error:
        foreign = next((name for name in names if name not in OFFLINE), "--harness")
        raise MissingExtraError("lm-eval", "eval", f"{foreign} (ours: {', '.join(OFFLINE)})") from (
            error
        )
    table: ScoreTable = harness.evaluate_loops(
        opened.model,
        tokenizer,
        names,
        loops,
        exit=asked.exit,
        limit=asked.limit,
        include=asked.include,
        server=asked.server,
        window=asked.window,
    )
    return table


def loops_of(typed: str, most: int) -> tuple[int, ...]:
    """The numbers in "1,4,8", ascending; nothing typed is 1 and `most`.

    Raises:
        InputError: If one is no number, or below 1.
    """
    if not typed:
        return tuple(sorted({1, most}))
    try:
        return check_loops([int(word) for word in typed.split(",")])
    except ValueError:
        raise InputError(f"--loops is {typed!r}; it must be numbers of at least 1: 1,4,8") from None


def shown(table: ScoreTable) -> Table:
    """The table for a terminal."""
    made = Table("task", "score")
    for n in table.loops:
        made.add_column(f"{n} loop{'s' * (n != 1)}", justify="right")
    for task, metric, values in table.rows():
        made.add_row(task, metric, *("" if v is None else f"{v:.4f}" for v in values))
    return made
