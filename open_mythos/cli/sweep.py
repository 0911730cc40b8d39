"""`open-mythos sweep`: what another loop is worth to a trained model."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from open_mythos.cli.opening import Opened, open_checkpoint
from open_mythos.config.budget import flops_per_token
from open_mythos.config.mythos import MythosConfig
from open_mythos.data.chat_rows import ChatRows
from open_mythos.data.corpus import corpus_text, encode_corpus
from open_mythos.data.tasks.task import Task
from open_mythos.data.windows import TokenWindows
from open_mythos.errors import InputError
from open_mythos.eval.accuracy import BATCHES, those_with_room
from open_mythos.eval.loop_curve import DepthMap, LoopCurve, depth_map, sweep
from open_mythos.eval.perplexity import score
from open_mythos.eval.text_judge import in_passes_of
from open_mythos.train.sources import EvaluationSource, build_sources


# Of a sweep that nobody told how much to score: seconds of two CPU cores.
FLOPS = 3e11
LEAST_ROWS = 4


def run(
    *,
    checkpoint: Path,
    loops: Sequence[int],
    text: Path | None,
    batches: int | None,
    as_json: bool,
    task: str | None = None,
    device: str = "auto",
) -> None:
    """Score at every depth: perplexity on text, accuracy by difficulty on a task."""
    opened = open_checkpoint(checkpoint, device).on_task(task)
    held_out = text_windows(opened, str(text)) if text is not None else own_data(opened)
    if batches is None:
        held_out, batches = within_seconds(opened.model.cfg, held_out, loops)
    found: LoopCurve | DepthMap
    if isinstance(held_out, TokenWindows | ChatRows):
        found = text_curve(opened, held_out, loops, batches)
    else:
        found = task_map(opened, held_out, loops, batches)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        Console().print(table(found))


def within_seconds(
    cfg: MythosConfig, held_out: EvaluationSource, loops: Sequence[int]
) -> tuple[EvaluationSource, int]:
    """The data in batches of so many rows, and how many of them, that a sweep takes seconds.

    About FLOPS in all, but at least LEAST_ROWS a cell and at most BATCHES of the run's own batches.
    """
    plain: Any = held_out
    if isinstance(held_out, TokenWindows | ChatRows):
        length, cells = held_out.seq_len, 1
    else:
        cells = len(asked(held_out, cfg.max_seq_len))
        length = held_out.row_length(held_out.max_level)
    row = length * cells * sum(flops_per_token(cfg, n, length).total for n in loops)
    rows = max(LEAST_ROWS, int(FLOPS / row))
    own: int = plain.batch_size
    if rows < own:
        return in_passes_of(held_out, rows), 1
    return held_out, min(BATCHES, rows // own)


def own_data(opened: Opened) -> EvaluationSource:
    """What the model has not seen: its folder's text, else what its run held out, else the plays.

    Raises:
        InputError: If the run's data was foreign.
    """
    if opened.held_out is not None:
        return text_windows(opened, str(opened.held_out))
    if opened.recipe is None:
        return text_windows(opened, "plays")
    held_out = build_sources(opened.recipe).evaluation
    if held_out is None:
        raise InputError(f"{opened.folder} was trained on foreign data; name a text file")
    return held_out


def text_windows(opened: Opened, corpus: str) -> TokenWindows:
    """A text, or the bundled plays, in windows of the model's tokens."""
    tokenizer = opened.tokenizer
    tokens = encode_corpus(tokenizer, corpus_text(corpus))
    return TokenWindows(
        tokens=tokens,
        seq_len=min(opened.model.cfg.max_seq_len, 256, len(tokens) - 1),
        batch_size=16,
        seed=0,
        vocab_size=tokenizer.vocab_size,
    )


def text_curve(
    opened: Opened, windows: TokenWindows | ChatRows, loops: Sequence[int], batches: int
) -> LoopCurve:
    """Loss on the first batches of a text, or of conversations, at every depth."""
    return sweep(
        opened.model,
        loops,
        lambda model, n: score(model, islice(windows.evaluation_batches(), batches), n),
        name="text",
    )


def task_map(opened: Opened, task: Task, loops: Sequence[int], batches: int) -> DepthMap:
    """Accuracy at every depth, from the easiest to four times the trained, as far as fits."""
    difficulties = asked(task, opened.model.cfg.max_seq_len)
    return depth_map(opened.model, task, difficulties, loops, batches=batches, name="task")


def asked(task: Task, room: int) -> list[int]:
    """The difficulties of a sweep."""
    most = task.max_level
    return those_with_room(task, {1, max(1, most // 2), most, 2 * most, 4 * most}, room)


def table(found: LoopCurve | DepthMap) -> Table:
    """The sweep as a table: a row per depth, or a row per difficulty and a column per depth."""
    if isinstance(found, LoopCurve):
        shown = Table("loops", "loss", "perplexity", "accuracy", title="score against loops")
        for p in found.points:
            best = "  <- best" if p == found.best else ""
            shown.add_row(
                str(p.n_loops), f"{p.loss:.4f}{best}", f"{p.perplexity:.2f}", f"{p.accuracy:.3f}"
            )
        return shown
    columns = [f"{n} loops" for n in found.loops]
    shown = Table("difficulty", *columns, title="accuracy by difficulty and loops")
    for difficulty, row in zip(found.difficulties, found.accuracy, strict=True):
        shown.add_row(str(difficulty), *(f"{cell:.3f}" for cell in row))
    return shown
