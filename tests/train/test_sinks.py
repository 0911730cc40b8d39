import json
from dataclasses import replace
from pathlib import Path

import pytest

from open_mythos.errors import CheckpointError
from open_mythos.train.recipe import Recipe
from open_mythos.train.records import EvalRecord, StepRecord
from open_mythos.train.sinks import (
    POINTS,
    JsonlSink,
    RunInfo,
    SamplesSink,
    cut_after,
    logged,
    read_metrics,
    thinned,
)


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        loss=1.0 / step,
        accuracy=0.0,
        lr=0.1,
        grad_norm=1.0,
        n_loops=1,
        mean_loops=1.0,
        tokens=step,
        tokens_per_second=1.0,
    )


def write(path: Path, recipe: Recipe, start: int, steps: range) -> None:
    sink = JsonlSink(path)
    sink.open(RunInfo(recipe, path.parent, start, "cpu", 1))
    for step in steps:
        sink.step(record(step))
        if step % 2 == 0:
            sink.evaluation(EvalRecord(step=step, values={"x": step}))
    sink.note("not a number")
    sink.close()
    sink.close()


def lines(path: Path) -> list[tuple[str, int]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["kind"], line["step"]) for line in found]


@pytest.mark.parametrize("start", [0, 1, 4, 6, 9])
def test_resuming_drops_what_came_after_and_nothing_else(
    tmp_path: Path, tiny: Recipe, start: int
) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, tiny, 0, range(1, 7))
    before = lines(path)
    write(path, tiny, start, range(start + 1, start + 4))
    kept = [line for line in before if line[1] <= start]
    assert lines(path)[: len(kept)] == kept
    assert [s for kind, s in lines(path) if kind == "step"][-3:] == [
        start + 1,
        start + 2,
        start + 3,
    ]
    assert len(set(lines(path))) == len(lines(path))


def test_every_line_is_on_disk_before_the_next_step(tmp_path: Path, tiny: Recipe) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink.open(RunInfo(tiny, tmp_path, 0, "cpu", 1))
    for step in (1, 2, 3):
        sink.step(record(step))
        assert lines(sink.path)[-1] == ("step", step)
    sink.close()


def test_a_torn_last_line_goes_a_torn_inner_line_is_refused(tmp_path: Path, tiny: Recipe) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, tiny, 0, range(1, 4))
    whole = path.read_text()
    for torn in ('{"kind": "step", "step": 1', '{"kind": "st', "17"):
        path.write_text(whole + torn)
        cut_after(path, 10)
        assert path.read_text() == whole
    path.write_text("garbage\n" + whole)
    with pytest.raises(
        CheckpointError, match=r"line 1 of .*metrics\.jsonl is no record: 'garbage'"
    ):
        cut_after(path, 10)
    cut_after(tmp_path / "absent.jsonl", 3)
    assert not (tmp_path / "absent.jsonl").exists()


def test_metrics_are_read_while_the_run_still_writes(tmp_path: Path, tiny: Recipe) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, tiny, 0, range(1, 4))
    wanted = [json.loads(line) for line in path.read_text().splitlines()]
    assert read_metrics(path) == wanted
    path.write_text(path.read_text() + '{"kind": "st')
    assert read_metrics(path) == wanted
    with pytest.raises(CheckpointError, match=r"cannot read .*none\.jsonl"):
        read_metrics(tmp_path / "none.jsonl")


def test_samples_are_files_and_resuming_drops_later_ones(tmp_path: Path, tiny: Recipe) -> None:
    folder = tmp_path / "samples"
    sink = SamplesSink(folder)
    sink.open(RunInfo(tiny, tmp_path, 0, "cpu", 1))
    sink.evaluation(EvalRecord(step=1, values={"x": 1.0}))
    assert not folder.exists()
    for step in (2, 4, 6):
        texts = {"samples/1": f"be {step}\nor not", "samples/2": "\u00e9"}
        sink.evaluation(EvalRecord(step=step, values={}, texts=texts))
    (folder / "notes.txt").write_text("mine")
    assert (folder / "step_0000004.txt").read_text("utf-8") == (
        "--- samples/1\nbe 4\nor not\n\n--- samples/2\n\u00e9\n"
    )
    SamplesSink(folder).open(RunInfo(tiny, tmp_path, 4, "cpu", 1))
    names = {path.name for path in folder.iterdir()}
    assert names == {"step_0000002.txt", "step_0000004.txt", "notes.txt"}


@pytest.mark.parametrize("steps", [1, 200, POINTS, POINTS + 1, 123_457])
def test_a_long_run_is_shown_in_so_many_points_its_last_step_included(steps: int) -> None:
    shown = [step for step in range(1, steps + 1) if thinned(step, steps)]
    assert min(steps, POINTS // 2) <= len(shown) <= POINTS + 1
    assert shown[-1] == steps
    assert len(shown) == steps or steps > POINTS


def test_logged_are_every_so_many_steps_and_the_last(tiny: Recipe) -> None:
    recipe = replace(tiny, steps=11, log_every=4)
    assert [step for step in range(1, 12) if logged(step, recipe)] == [4, 8, 11]
