import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from open_mythos.config.overrides import from_plain
from open_mythos.errors import MissingExtraError
from open_mythos.train.recipe import Recipe
from open_mythos.train.records import EvalRecord, StepRecord
from open_mythos.train.scalars import step_scalars
from open_mythos.train.sinks import RunInfo
from open_mythos.train.tensorboard import CHARTS, FOLDER, TensorBoardSink


pytest.importorskip("tensorboard")


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        loss=1.0 / step,
        accuracy=0.5,
        lr=0.1,
        grad_norm=1.0,
        n_loops=2,
        mean_loops=2.0,
        tokens=step,
        tokens_per_second=1.0,
        entropy_by_loop=[0.25, 0.75],
    )


def write(recipe: Recipe, folder: Path, start: int, steps: Iterator[int] | range) -> None:
    sink = TensorBoardSink()
    sink.note("before it is opened")
    sink.open(RunInfo(recipe, folder, start, "cpu", 1_000_000))
    for step in steps:
        sink.step(record(step))
        if step % 2 == 0:
            texts = {"samples/1": f"be {step}\n<b>or not</b>"}
            sink.evaluation(EvalRecord(step=step, values={"validation/loss": step}, texts=texts))
    sink.close()
    sink.close()


def read(folder: Path) -> Any:
    """TensorBoard's own reader, everything kept."""
    module = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    everything = {"scalars": 0, "tensors": 0}
    found = module.EventAccumulator(str(folder / FOLDER), size_guidance=everything)
    found.Reload()
    return found


def steps(found: Any, tag: str) -> list[int]:
    return [event.step for event in found.Scalars(tag)]


def texts(found: Any, tag: str) -> dict[int, str]:
    """By step: the accumulator, unlike the server, keeps texts that a restart made obsolete."""
    events = found.Tensors(f"{tag}/text_summary")
    return {e.step: e.tensor_proto.string_val[0].decode() for e in events}


def test_tensorboard_reads_back_what_was_reported(tmp_path: Path, tiny: Recipe) -> None:
    tiny = replace(tiny, log_every=3)
    write(tiny, tmp_path, 0, range(1, 7))
    found = read(tmp_path)
    for tag in step_scalars(record(1), by_loop=False):
        assert steps(found, tag) == [1, 2, 3, 4, 5, 6], tag
    assert steps(found, "router_entropy/loop_02") == [3, 6]
    assert [e.value for e in found.Scalars("train/loss")] == pytest.approx(
        [1.0 / step for step in range(1, 7)]
    )
    assert [(e.step, e.value) for e in found.Scalars("eval/validation/loss")] == [
        (2, 2.0),
        (4, 4.0),
        (6, 6.0),
    ]
    shown = texts(found, "samples/1")
    assert shown[4] == "    be 4\n    <b>or not</b>"
    assert from_plain(Recipe, yaml.safe_load(texts(found, "run/recipe")[0])) == tiny


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_a_resumed_run_has_every_step_once(
    tmp_path: Path, tiny: Recipe, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files are read by their names: time, process, and this count, of which 10 sorts before 9.
    names = importlib.import_module("tensorboard.summary.writer.event_file_writer")
    monkeypatch.setattr(names, "_global_uid", names.AtomicCounter(0))
    write(tiny, tmp_path, 0, range(1, 7))
    write(tiny, tmp_path, start, range(start + 1, 9))
    found = read(tmp_path)
    assert steps(found, "train/loss") == list(range(1, 9))
    assert steps(found, "eval/validation/loss") == [2, 4, 6, 8]
    assert set(texts(found, "samples/1")) == {2, 4, 6, 8}
    assert set(texts(found, "run/recipe")) == {0, start}


def test_the_charts_name_tags_that_exist() -> None:
    import re

    from open_mythos.train.scalars import eval_scalars

    names = {"v/loss": 1.0, "v/loss_at_3": 1.0, "t/accuracy": 1.0, "t/accuracy_at_8": 1.0}
    here = {*eval_scalars(EvalRecord(step=1, values=names)), "router_peak/loop_01"}
    here |= step_scalars(record(1)).keys()
    for charts in CHARTS.values():
        for _, patterns in charts.values():
            assert all(any(re.search(p, tag) for tag in here) for p in patterns)
            assert not any(re.search(p, "eval/v/loss_of_another") for p in patterns)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def absent(name: str, *rest: Any) -> Any:
        if "tensorboard" in name:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingExtraError, match=r"open-mythos\[tb\]"):
        TensorBoardSink()
