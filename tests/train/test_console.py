import io
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from open_mythos.train.console import ConsoleSink, told
from open_mythos.train.recipe import Recipe
from open_mythos.train.records import EvalRecord, StepRecord
from open_mythos.train.sinks import RunInfo


def record(step: int, **changes: object) -> StepRecord:
    base = StepRecord(
        step=step,
        loss=2.5,
        accuracy=0.25,
        lr=3e-4,
        grad_norm=1.0,
        n_loops=4,
        mean_loops=4.0,
        tokens=step,
        tokens_per_second=12345.0,
        rho_a=0.971,
        mfu=0.371,
        memory=3 * 2**29,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


class Clock:
    """Two seconds pass from one step to the next."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drive(recipe: Recipe, *, terminal: bool, width: int = 40) -> str:
    text, clock = io.StringIO(), Clock()
    console = Console(file=text, force_terminal=terminal, width=width, color_system=None)
    sink = ConsoleSink(console, clock)
    sink.open(RunInfo(recipe, Path("out"), 2, "cpu", 1_500_000))
    for step in range(3, 8):
        clock.now += 2.0
        sink.step(record(step, level=1, mean_loops=2.5, skipped=step == 6))
    sink.evaluation(EvalRecord(step=7, values={"validation/loss": 2.25}))
    sink.note("stopped [for] a reason")
    sink.close()
    sink.close()
    return text.getvalue()


NUMBERS = (
    "loss 2.500  acc 0.250  lr 3.00e-4  grad 1.00  12,345 tok/s  MFU 37.1%  1.5 GiB  "
    "loops 4.0 (used 2.5)  rho 0.971  level 1"
)


def test_without_a_terminal_a_plain_line_every_so_many_steps(tiny: Recipe) -> None:
    lines = drive(replace(tiny, steps=7, log_every=3), terminal=False).splitlines()
    assert lines[0] == "tiny: 1.50M parameters on cpu, steps 3 to 7, in out"
    assert lines[1] == f"step 3/7  {NUMBERS}"
    assert lines[2].startswith("step 6: skipped, its loss or gradient not finite")
    assert lines[3:5] == [f"step 6/7  {NUMBERS}  ETA 0:00:02", f"step 7/7  {NUMBERS}"]
    assert lines[5:] == ["step 7  validation  loss 2.25", "stopped [for] a reason"]


@pytest.mark.parametrize("width", [80, 160, 240])
def test_on_a_terminal_a_live_line_with_the_numbers_and_the_time_left(
    tiny: Recipe, width: int
) -> None:
    shown = drive(replace(tiny, steps=9), terminal=True, width=width)
    for word in ("7/9", "ETA 0:00:04", "loss 2.500", "12,345 tok/s", "level 1"):
        assert word in shown
    assert "stopped [for] a reason" in shown
    live = [line for line in shown.splitlines() if "7/9" in line and "step" not in line]
    assert live
    for line in live:
        drawn = line.rpartition("\r")[2].rpartition("\x1b[2K")[2]
        assert len(drawn) < width
        assert ("\u2501" in drawn) == (width >= 160)
        assert ("rho" in drawn) == (width >= 160)
        assert ("in 0:00:10" in drawn) == (width == 240)
    # The last numbers stay when the live line is gone.
    assert f"step 7/9  {NUMBERS}  ETA 0:00:04" in shown


def test_the_time_left_follows_the_pace_of_the_last_steps(tiny: Recipe) -> None:
    text, clock = io.StringIO(), Clock()
    console = Console(file=text, width=200, color_system=None)
    sink = ConsoleSink(console, clock)
    sink.open(RunInfo(replace(tiny, steps=1000, log_every=300), Path("out"), 0, "cpu", 1))
    for step in range(1, 601):
        clock.now += 60.0 if step == 1 else 5.0 if step <= 300 else 1.0  # first a compiler
        sink.step(record(step))
    early, late = (line for line in text.getvalue().splitlines() if line.startswith("step"))
    assert early.endswith("ETA 0:58:20")  # 700 steps of 5 s
    assert late.endswith("ETA 0:06:40")  # 400 steps of 1 s


def test_an_evaluation_is_a_line_for_each_judge_and_a_sample() -> None:
    values = {
        "validation/loss": 2.0,
        "validation/loss_at_1": 3.0,
        "validation/loss_at_8": 1.5,
        "hops_4/accuracy": 0.5,
        "hops_4/accuracy_at_2": 0.25,
        "validation_old/code/loss": 4.0,
        "plain": 7.0,
    }
    texts = {"samples/1": "HAMLET:\n  to be " + "x" * 200, "samples/2": "more"}
    lines = told(EvalRecord(step=3, values=values, texts=texts))
    assert lines[:4] == [
        "validation  loss 2  loss by loops 1: 3, 8: 1.5",
        "hops_4  accuracy 0.5  accuracy by loops 2: 0.25",
        "validation_old/code  loss 4",
        "plain 7",
    ]
    assert lines[4].startswith("sample  HAMLET: to be xxx")
    assert lines[4].endswith("x...")
    assert len(lines) == 5
    for room in (40, 80):
        assert len(told(EvalRecord(step=3, values={}, texts=texts), room)[0]) == room - 1
    assert told(EvalRecord(step=3, values={}, texts={"s": "a\n b"}), 40) == ["sample  a b"]


def test_what_the_last_steps_warn_of_is_said_once(tiny: Recipe) -> None:
    text = io.StringIO()
    sink = ConsoleSink(Console(file=text, width=200, color_system=None))
    sink.open(RunInfo(replace(tiny, steps=100, log_every=10), Path("out"), 0, "cpu", 1))
    for step in range(1, 61):
        sink.step(record(step, rho_a=0.5 if step < 25 else 0.9991, mean_loops=3.0))
    warned = [line for line in text.getvalue().splitlines() if "warning" in line]
    assert warned == [line for line in warned if line.startswith("warning at step 30: rho(A) is")]
    assert len(warned) == 1


def test_drawing_at_any_moment_disturbs_nothing(tiny: Recipe) -> None:
    """The live line is drawn by a thread of its own while steps come in."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    sink, failed = ConsoleSink(console), []
    sink.open(RunInfo(replace(tiny, steps=10**6), Path("out"), 0, "cpu", 1))
    stop = threading.Event()

    def draw() -> None:
        try:
            while not stop.is_set():
                assert len(str(sink._drawn())) < 100
        except (AssertionError, RuntimeError, LookupError) as error:
            failed.append(error)

    thread = threading.Thread(target=draw)
    thread.start()
    for step in range(1, 3000):
        sink.step(record(step))
    stop.set()
    thread.join()
    sink.close()
    assert not failed
