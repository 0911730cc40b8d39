import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from open_mythos.train.console import ConsoleSink
from open_mythos.train.recipe import Recipe
from open_mythos.train.records import EvalRecord, StepRecord
from open_mythos.train.sinks import RunInfo


def record(step: int, **changes: object) -> StepRecord:
    base = StepRecord(
        step=step,
        loss=2.5,
        accuracy=0.25,
        lr=0.1,
        grad_norm=1.0,
        n_loops=4,
        mean_loops=4.0,
        tokens=step,
        tokens_per_second=12345.0,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def drive(recipe: Recipe, *, terminal: bool, width: int = 40) -> str:
    text = io.StringIO()
    sink = ConsoleSink(Console(file=text, force_terminal=terminal, width=width, color_system=None))
    sink.open(RunInfo(recipe, Path("out"), 2, "cpu", 1_500_000))
    for step in range(3, 8):
        sink.step(record(step, level=1, mean_loops=2.5, skipped=step == 6))
    sink.evaluation(EvalRecord(step=7, values={"validation/loss": 2.25}))
    sink.note("stopped [for] a reason")
    sink.close()
    sink.close()
    return text.getvalue()


def test_without_a_terminal_a_plain_line_every_so_many_steps(tiny: Recipe) -> None:
    lines = drive(replace(tiny, steps=7, log_every=3), terminal=False).splitlines()
    assert lines[0] == "tiny: 1.50M parameters on cpu, steps 3 to 7, in out"
    numbers = "loss 2.500  acc 0.250  12,345 tok/s  loops 4 (used 2.5)  level 1"
    assert lines[1] == f"step 3/7  {numbers}"
    assert lines[2].startswith("step 6: loss or gradient is not finite")
    assert lines[3:5] == [f"step 6/7  {numbers}", f"step 7/7  {numbers}"]
    assert lines[5:] == ["step 7  validation/loss 2.25", "stopped [for] a reason"]


@pytest.mark.parametrize("width", [80, 140])
def test_on_a_terminal_a_live_line_with_the_numbers_and_the_time_left(
    tiny: Recipe, width: int
) -> None:
    shown = drive(replace(tiny, steps=7), terminal=True, width=width)
    for word in ("7/7", "ETA", "loss 2.500", "12,345 tok/s", "level 1", "stopped [for] a reason"):
        assert word in shown
    assert ("\u2501" in shown) == (width == 140)
