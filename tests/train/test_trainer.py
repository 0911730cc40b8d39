import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from signal import SIGTERM
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from open_mythos.checkpoint.store import load_model
from open_mythos.config.overrides import to_plain
from open_mythos.data.batch import Batch
from open_mythos.errors import CheckpointError, ConfigError
from open_mythos.model.mythos import OpenMythos
from open_mythos.parallel.spread import Spread
from open_mythos.train import loss_scale
from open_mythos.train.build import build_state, find_device
from open_mythos.train.checkpoints import RunFolder, Start
from open_mythos.train.recipe import CurriculumConfig, DataConfig, EngineConfig, Recipe
from open_mythos.train.records import MEASURED, timeless
from open_mythos.train.sources import Sources, build_sources
from open_mythos.train.step import launch
from open_mythos.train.trainer import Loop, Parts, train


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [timeless(line) for line in lines]


def assert_same_end(one: Path, other: Path) -> None:
    """Equal weights, moments, generators, counters, data and metrics: nothing else is a run."""
    a, b = (list(RunFolder(p).steps().values())[-1] for p in (one, other))
    assert a.name == b.name
    for name in ("model.safetensors", "optimizer.safetensors"):
        x, y = load_file(a / name), load_file(b / name)
        assert x.keys() == y.keys()
        assert all(torch.equal(x[k], y[k]) for k in x)
    assert json.loads((a / "state.json").read_text()) == json.loads((b / "state.json").read_text())
    assert metrics(one) == metrics(other)


def loss_on_one_batch(recipe: Recipe) -> dict[str, Callable[..., dict[str, float]]]:
    """An evaluator that also draws random numbers, as a sampling one would."""

    def evaluate(model: torch.nn.Module, step: int) -> dict[str, float]:
        with torch.no_grad():
            ids = build_sources(recipe).train.batch(0).ids
            return {"mean": float(model(ids, 2).mean()), "draw": float(torch.rand(()))}

    return {"look": evaluate}


# -- exact resume --------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [1, 4, 5, 11])
def test_stopping_and_resuming_changes_no_bit(
    tmp_path: Path, tiny: Recipe, ear: type, parts: Parts, stop_at: int
) -> None:
    looks = loss_on_one_batch(tiny)
    train(tiny, tmp_path / "straight", parts=parts, evaluators=looks)

    def stop(record: Any) -> None:
        if record.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    out = tmp_path / "broken"
    first = train(tiny, out, parts=parts, evaluators=looks, sinks=[ear(after=stop)])
    assert (first.status, first.step, first.signal) == ("stopped", stop_at, "SIGTERM")
    assert f"stopped at step {stop_at}" in first.message
    assert "--resume" in first.message
    second = train(tiny, out, resume="resume", parts=parts, evaluators=looks)
    assert (second.status, second.step) == ("finished", tiny.steps)
    assert_same_end(tmp_path / "straight", out)


def test_the_real_network_resumes_bit_for_bit(tmp_path: Path, tiny: Recipe, ear: type) -> None:
    train(tiny, tmp_path / "straight")
    out = tmp_path / "broken"
    stopped = train(tiny, out, max_seconds=0.0)
    assert (stopped.status, stopped.step) == ("out_of_time", 0)
    sink = ear(after=lambda r: os.kill(os.getpid(), signal.SIGINT) if r.step == 7 else None)
    assert train(tiny, out, resume="auto", sinks=[sink]).step == 7
    end = train(tiny, out, resume="auto")
    assert_same_end(tmp_path / "straight", out)
    model = OpenMythos.from_pretrained(end.checkpoint)
    for name, tensor in end.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


KILLED = """
import json, os, signal, sys
import torch
from open_mythos.config.overrides import from_plain
from open_mythos.train import saved
from open_mythos.train.recipe import EngineConfig, Recipe
from open_mythos.train.trainer import train

torch.set_num_threads(1)
recipe = from_plain(Recipe, json.loads(sys.argv[1]))
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

class Killer:
    def __init__(self, moment): self.moment = moment
    def open(self, run): pass
    def step(self, record):
        if self.moment == "step" and record.step == 8: die()
        if self.moment == "save" and record.step == 10: saved.write_manifest = die
    def evaluation(self, record): pass
    def note(self, text): pass
    def close(self): pass

for moment in ("step", "save"):
    child = os.fork()
    if not child:
        train(recipe, f"{sys.argv[2]}/{moment}", sinks=[Killer(moment)])
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.timeout(600)  # a slow machine takes a minute for the imports alone
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_runs_killed_in_a_step_and_in_a_save_resume_bit_for_bit(
    tmp_path: Path, tiny: Recipe
) -> None:
    words = [sys.executable, "-c", KILLED, json.dumps(to_plain(tiny)), str(tmp_path)]
    died = subprocess.run(words, check=False, capture_output=True, text=True, timeout=300)
    assert died.stdout.split() == [str(-signal.SIGKILL)] * 2, died.stderr
    assert list((tmp_path / "save" / "checkpoints").glob(".step_0000010.tmp-*"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the killed runs: sums over threads round differently
    try:
        train(tiny, tmp_path / "straight")
        for moment in ("step", "save"):
            out = tmp_path / moment
            assert list(RunFolder(out).steps()) == [5]
            with (out / "metrics.jsonl").open("a") as file:
                file.write('{"kind": "step", "step": 1')  # as torn as a kill can leave it
            train(tiny, out, resume="resume")
            assert_same_end(tmp_path / "straight", out)
            assert not list((out / "checkpoints").glob(".*"))
    finally:
        torch.set_num_threads(threads)


def test_every_step_is_reported_once_however_often_the_run_breaks(
    run: Path, tiny: Recipe, ear: type, parts: Parts
) -> None:
    class Broken(Exception):
        pass

    def fail_at(step: int) -> Callable[[Any], None]:
        def after(record: Any) -> None:
            if record.step == step:
                raise Broken

        return after

    for step in (3, 7, 8, 12):
        sink = ear(after=fail_at(step))
        with pytest.raises(Broken):
            train(tiny, run, resume="auto", parts=parts, sinks=[sink])
        assert sink.closed == 1
    train(tiny, run, resume="resume", parts=parts)
    steps = [line["step"] for line in metrics(run) if line["kind"] == "step"]
    assert steps == list(range(1, tiny.steps + 1))


@pytest.fixture
def fill(ear: type) -> Iterator[Callable[..., Any]]:
    """`fill(limits)`: a sink from whose steps on no file may grow past `limits[step]` bytes.

    Python ignores the signal that goes with it, so a write past that is an OSError, no more.
    """
    resource = pytest.importorskip("resource")  # of Unix
    free = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(limits: dict[int, int]) -> Any:
        def after(record: Any) -> None:
            if record.step in limits:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limits[record.step], free[1]))

        return ear(after=after)

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, free)


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_costs_no_step_and_no_earlier_checkpoint(
    tmp_path: Path, tiny: Recipe, fill: Callable[..., Any]
) -> None:
    recipe = replace(tiny, save_every=3, keep_last=0)
    train(recipe, tmp_path / "straight")
    weights = tmp_path / "straight" / "checkpoints" / "step_0000003" / "model.safetensors"
    small, large = weights.stat().st_size // 2, 1 << 30
    # Full while the second and third save are due; then there is room again.
    passing = fill({4: small, 10: large})
    train(recipe, tmp_path / "passing", sinks=[passing])
    assert sum("could not be saved" in note for note in passing.notes) == 2
    assert list(RunFolder(tmp_path / "passing").steps()) == [3, 12]
    assert_same_end(tmp_path / "straight", tmp_path / "passing")
    # Full to the end: the run says what is lost, and how to go on.
    out = tmp_path / "full"
    lost = r"step 12 is done but could not be saved.*make room and resume"
    with pytest.raises(CheckpointError, match=lost):
        train(recipe, out, sinks=[fill({4: small})])
    assert list(RunFolder(out).steps()) == [3]
    assert not list((out / "checkpoints").glob(".*"))
    again = fill({3: large})
    again.after(SimpleNamespace(step=3))
    train(recipe, out, resume="resume", sinks=[again])
    assert any("resumed at step 3" in note for note in again.notes)
    assert_same_end(tmp_path / "straight", out)


# -- how it is computed --------------------------------------------------------------------------


def engine(recipe: Recipe, **choices: Any) -> Recipe:
    return replace(recipe, engine=EngineConfig(**choices))


@pytest.mark.parametrize(
    ("precision", "checkpoint"), [("bf16", False), ("bf16", True), ("fp16", False)]
)
def test_a_16_bit_run_is_saved_in_float32_and_resumes_bit_for_bit(
    tmp_path: Path, tiny: Recipe, ear: type, precision: str, checkpoint: bool
) -> None:
    recipe = replace(
        engine(tiny, precision=precision, checkpoint=checkpoint), steps=4, save_every=2
    )
    looks = loss_on_one_batch(recipe)
    train(recipe, tmp_path / "straight", evaluators=looks)
    out = tmp_path / "broken"
    sink = ear(after=lambda r: os.kill(os.getpid(), signal.SIGTERM) if r.step == 2 else None)
    assert train(recipe, out, evaluators=looks, sinks=[sink]).step == 2
    end = train(recipe, out, resume="resume", evaluators=looks)
    assert (end.status, end.step) == ("finished", 4)
    assert_same_end(tmp_path / "straight", out)
    for name in ("model.safetensors", "optimizer.safetensors"):
        tensors = load_file(end.checkpoint / name)
        kinds = {v.dtype for k, v in tensors.items() if not k.startswith(("rng/", "guard/"))}
        assert kinds == {torch.float32}
        values = torch.cat([v.flatten() for v in tensors.values() if v.dtype == torch.float32])
        assert not torch.equal(values, values.bfloat16().float())  # more than the copy holds
    assert all(p.dtype == torch.float32 for p in end.model.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_16_bit_run_learns(run: Path, tiny: Recipe, ear: type, precision: str) -> None:
    """Strings of one bit, whose parity is the bit: chance is a loss of 0.69."""
    recipe = replace(
        engine(tiny, precision=precision),
        data=replace(tiny.data, batch_size=16),
        curriculum=replace(tiny.curriculum, threshold=2.0),
        steps=40,
        save_every=0,
    )
    sink = ear()
    train(recipe, run, sinks=[sink])
    losses = [r.loss for r in sink.records]
    assert losses[0] > 0.5
    assert max(losses[-3:]) < 0.1
    assert {r.accuracy for r in sink.records[-3:]} == {1.0}


def test_checkpointing_changes_no_record(tmp_path: Path, tiny: Recipe) -> None:
    """Dropout included: the way back draws what the way there drew."""
    for name, choice in (("plain", False), ("again", True)):
        train(replace(engine(tiny, checkpoint=choice), steps=4), tmp_path / name)
    for a, b in zip(metrics(tmp_path / "plain"), metrics(tmp_path / "again"), strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"terms", "kind", "loss_scale", "epoch"}:
            if a[key] is None:  # the state's growth in a step of one loop
                assert b[key] is None, key
                continue
            assert a[key] == pytest.approx(b[key], rel=1e-5), key


def test_the_copy_is_what_is_changed_and_the_master_stays_as_written(tiny: Recipe) -> None:
    """The master is what is saved and handed out: nothing of how it was trained sticks to it."""
    source, cpu = build_sources(tiny).train, torch.device("cpu")
    recipe = engine(tiny, precision="bf16", checkpoint=True)
    state = build_state(recipe, source, cpu, lambda r: OpenMythos(r.model))
    ours, theirs = (m.recurrent for m in (state.working.model, state.model))
    assert "turn" in vars(ours)
    assert "turn" not in vars(theirs)
    assert build_state(tiny, source, cpu, lambda r: OpenMythos(r.model)).working.model is not ours


def test_a_network_of_ones_own_trains_in_16_bits(run: Path, tiny: Recipe, parts: Parts) -> None:
    recipe = engine(tiny, precision="bf16", compile=True, checkpoint=True)
    assert train(recipe, run, parts=parts).status == "finished"


def test_a_run_cannot_go_on_in_another_precision(run: Path, tiny: Recipe, parts: Parts) -> None:
    train(tiny, run, parts=parts)
    with pytest.raises(ConfigError, match=r"engine\.precision \(was 'fp32', is 'bf16'\)"):
        train(engine(tiny, precision="bf16"), run, resume="resume", parts=parts)


def test_all_that_a_step_keeps_is_resumed_bit_for_bit(
    tmp_path: Path, tiny: Recipe, ear: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Muon's momentum, a loss scale that has just fallen and grown, and the usual norm."""
    monkeypatch.setattr(loss_scale, "START", 2.0**40)
    monkeypatch.setattr(loss_scale, "INTERVAL", 3)
    recipe = replace(
        engine(tiny, precision="fp16"),
        optim=replace(tiny.optim, kind="muon", skip_spikes=2.0),
        steps=36,
        save_every=0,
        eval_every=0,
    )
    straight = ear()
    train(recipe, tmp_path / "straight", sinks=[straight])
    scales = [r.loss_scale for r in straight.records]
    assert [r.skipped for r in straight.records][:20] == [True] * 20
    assert not straight.records[-1].skipped
    assert any(a < b for a, b in pairwise(scales))
    for stop_at in (5, 31):
        out = tmp_path / f"broken-{stop_at}"
        sink = ear(after=lambda r, at=stop_at: r.step == at and os.kill(os.getpid(), SIGTERM))
        assert train(recipe, out, sinks=[sink]).step == stop_at
        saved = load_file(next(iter(RunFolder(out).steps().values())) / "optimizer.safetensors")
        assert float(saved["guard/loss_scale/scale"]) != 2.0**40
        assert "guard/spikes/mean" in saved
        assert train(recipe, out, resume="resume").status == "finished"
        assert_same_end(tmp_path / "straight", out)


@pytest.mark.parametrize("stop_at", [1, 7, 20])
def test_every_task_of_a_mixture_keeps_its_level_over_a_resume(
    tmp_path: Path, tiny: Recipe, ear: type, parts: Parts, stop_at: int
) -> None:
    data = DataConfig(kind="mixed", batch_size=2, task={"extent": "small"})
    vocab = data.build_task(seed=0).vocab_size
    recipe = replace(
        tiny,
        data=data,
        model=replace(tiny.model, vocab_size=vocab),
        curriculum=CurriculumConfig(threshold=0.05, min_steps=2, momentum=0.0),
        steps=36,
        eval_every=0,
        save_every=0,
    )
    straight = ear()
    train(recipe, tmp_path / "straight", parts=parts, sinks=[straight])
    by_task = [tuple(r.level for r in straight.records[start::6]) for start in range(6)]
    assert all(levels[0] == 1 for levels in by_task)
    assert len(set(by_task)) > 1
    out = tmp_path / "broken"
    sink = ear(after=lambda r: r.step == stop_at and os.kill(os.getpid(), SIGTERM))
    assert train(recipe, out, parts=parts, sinks=[sink]).step == stop_at
    again = ear()
    assert train(recipe, out, parts=parts, resume="resume", sinks=[again]).status == "finished"
    assert sink.timeless() + again.timeless() == straight.timeless()
    assert_same_end(tmp_path / "straight", out)


# -- overlapping steps ---------------------------------------------------------------------------


class Level:
    """Batches without levels, so that no batch depends on how the one before it went."""

    vocab_size, max_level = 2, 0

    def batch(self, step: int, level: int = 0) -> Batch:
        ids = torch.randint(2, (4, 6), generator=torch.Generator().manual_seed(step))
        return Batch(ids, ids.cumsum(1) % 2)


@pytest.fixture
def flat(stand_in: Any) -> Callable[..., Parts]:
    """`flat(poison)`: the stand-in on those batches."""

    def make(poison: dict[int, float] | None = None) -> Parts:
        return Parts(model=lambda r: stand_in(r.model, poison), sources=lambda r: Sources(Level()))

    return make


def looking(model: torch.nn.Module, step: int) -> dict[str, float]:
    return {"norm": float(sum(p.detach().norm() for p in model.parameters()))}


class Heard:
    """A sink that keeps the order of everything it is told."""

    def __init__(self, after: Callable[[Any], Any] = lambda record: None) -> None:
        self.all: list[Any] = []
        self.after = after

    def open(self, run: Any) -> None:
        self.all.append(("open", run.start_step))

    def step(self, record: Any) -> None:
        self.all.append(replace(record, **dict.fromkeys(MEASURED)))
        self.after(record)

    def evaluation(self, record: Any) -> None:
        self.all.append(record)

    def note(self, text: str) -> None:
        self.all.append(text)

    def close(self) -> None:
        self.all.append("close")


@pytest.mark.parametrize("model", ["stand-in", "real"])
def test_overlapping_steps_change_nothing_but_when_numbers_are_read(
    tmp_path: Path,
    tiny: Recipe,
    flat: Any,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
) -> None:
    heard = []
    poison = {3: float("nan"), 8: float("inf"), 10: float("nan")}
    parts = flat(poison) if model == "stand-in" else Parts(sources=flat().sources)
    for overlaps in (False, True):
        monkeypatch.setattr(Loop, "overlaps", lambda self, state, answer=overlaps: answer)
        sink, out = Heard(), tmp_path / str(overlaps)
        end = train(tiny, out, parts=parts, evaluators={"look": looking}, sinks=[sink])
        assert (end.status, end.step) == ("finished", tiny.steps)
        assert end.record is not None
        assert end.record.step == tiny.steps
        assert list(RunFolder(out).steps()) == [10, 12]
        heard.append(sink.all)
    assert repr(heard[0]) == repr(heard[1])  # NaN is not equal to itself
    order = [(type(x).__name__, x.step) for x in heard[1][1:-1]]
    evaluations = [at for at in order if at[0] == "EvalRecord"]
    assert evaluations == [("EvalRecord", s) for s in (4, 8, 12)]
    assert [s for kind, s in order if kind == "StepRecord"] == list(range(1, 13))
    assert all(order.index(("StepRecord", s)) < order.index((k, s)) for k, s in evaluations)
    assert_same_end(tmp_path / "False", tmp_path / "True")
    early = [RunFolder(tmp_path / name).steps()[10] / "state.json" for name in ("False", "True")]
    assert early[0].read_text() == early[1].read_text()


def test_overlapping_reads_a_step_while_the_next_one_runs(
    run: Path, tiny: Recipe, flat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each record arrives one launch late, but where a save or an evaluation needs it."""
    recipe = replace(tiny, steps=7, save_every=0, eval_every=4)
    monkeypatch.setattr(Loop, "overlaps", lambda self, state: True)
    launched: list[int] = []
    original = launch

    def noted(*args: Any) -> Any:
        launched.append(len(launched) + 1)
        return original(*args)

    monkeypatch.setattr("open_mythos.train.trainer.launch", noted)
    seen: list[tuple[int, int]] = []
    sink = Heard(lambda record: seen.append((record.step, len(launched))))
    train(recipe, run, parts=flat(), sinks=[sink])
    assert seen == [(1, 2), (2, 3), (3, 4), (4, 4), (5, 6), (6, 7), (7, 7)]


def test_an_overlapping_run_that_is_stopped_resumes_bit_for_bit(
    tmp_path: Path, tiny: Recipe, flat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny, tmp_path / "straight", parts=flat())
    monkeypatch.setattr(Loop, "overlaps", lambda self, state: True)
    out = tmp_path / "broken"
    sink = Heard(lambda r: os.kill(os.getpid(), signal.SIGTERM) if r.step == 6 else None)
    stopped = train(tiny, out, parts=flat(), sinks=[sink])
    assert stopped.status == "stopped"
    assert stopped.record is not None
    assert stopped.record.step == stopped.step == 7  # it was under way already
    assert list(RunFolder(out).steps()) == [5, 7]
    assert train(tiny, out, resume="resume", parts=flat()).status == "finished"
    assert_same_end(tmp_path / "straight", out)


def test_an_overlapping_run_stops_at_divergence_with_the_last_good_weights(
    tmp_path: Path, tiny: Recipe, flat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(tiny, optim=replace(tiny.optim, max_skipped=2), eval_every=0, save_every=0)
    poison = dict.fromkeys(range(7, 20), float("nan"))
    ends = []
    for overlaps in (False, True):
        monkeypatch.setattr(Loop, "overlaps", lambda self, state, answer=overlaps: answer)
        end = train(recipe, tmp_path / str(overlaps), parts=flat(poison))
        assert end.status == "diverged"
        assert end.record is not None
        assert (end.record.step, end.record.skipped) == (end.step, True)
        ends.append(end)
    # The step after the last that counts was under way when its numbers came: it moved nothing.
    assert [(end.step, end.skipped) for end in ends] == [(8, 2), (9, 3)]
    one, two = (load_file(end.checkpoint / "model.safetensors") for end in ends)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert all(v.isfinite().all() for v in one.values())
    steps = [metrics(tmp_path / name) for name in ("False", "True")]
    assert steps[1][: len(steps[0])] == steps[0]


def test_steps_overlap_on_a_gpu_unless_the_next_batch_depends_on_them(
    run: Path, tiny: Recipe
) -> None:
    def asks(source: Any, device: str) -> bool:
        loop = Loop(
            recipe=tiny, folder=RunFolder(run), sources=Sources(source), evaluators={}, sinks=[]
        )
        where: Any = SimpleNamespace(device=torch.device(device))
        return loop.overlaps(where)

    levels = build_sources(tiny).train
    assert levels.max_level > 0
    assert asks(Level(), "cuda")
    assert not asks(Level(), "cpu")
    assert not asks(levels, "cuda")


# -- what a run may not do -----------------------------------------------------------------------


def test_an_earlier_run_is_never_overwritten_unasked(run: Path, tiny: Recipe, parts: Parts) -> None:
    train(tiny, run, parts=parts)
    before = metrics(run)
    with pytest.raises(CheckpointError, match=r"already holds a run.*--resume.*--fresh"):
        train(tiny, run, parts=parts)
    assert metrics(run) == before


def test_fresh_starts_over_and_touches_nothing_else(run: Path, tiny: Recipe, parts: Parts) -> None:
    train(tiny, run, parts=parts)
    before = metrics(run)
    (run / "notes.txt").write_text("mine")
    train(replace(tiny, seed=5), run, resume="fresh", parts=parts)
    assert (run / "notes.txt").read_text() == "mine"
    assert [line["step"] for line in metrics(run)] == [line["step"] for line in before]
    assert metrics(run) != before


def test_a_run_cannot_go_on_under_another_recipe(run: Path, tiny: Recipe, parts: Parts) -> None:
    train(tiny, run, parts=parts)
    changed = replace(tiny, seed=1, optim=replace(tiny.optim, lr=0.5))
    with pytest.raises(
        ConfigError, match=r"optim\.lr \(was 0\.01, is 0\.5\).*seed \(was 0, is 1\)"
    ):
        train(changed, run, resume="resume", parts=parts)
    longer = train(replace(tiny, steps=14, log_every=1), run, resume="resume", parts=parts)
    assert longer.step == 14


def test_resuming_what_is_not_there_is_refused(run: Path, tiny: Recipe, parts: Parts) -> None:
    with pytest.raises(CheckpointError, match="no run to resume"):
        train(tiny, run, resume="resume", parts=parts)
    with pytest.raises(ConfigError, match="did you mean 'resume'"):
        train(tiny, run, resume="resum", parts=parts)  # type: ignore[arg-type]


def test_resuming_a_finished_run_takes_no_step(run: Path, tiny: Recipe, parts: Parts) -> None:
    first = train(tiny, run, parts=parts)
    before = metrics(run)
    again = train(tiny, run, resume="resume", parts=parts)
    assert (again.status, again.record) == ("finished", None)
    assert again.checkpoint == first.checkpoint
    assert metrics(run) == before


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(
    tmp_path: Path, tiny: Recipe, ear: type, parts: Parts
) -> None:
    train(tiny, tmp_path / "straight", parts=parts)
    run = tmp_path / "run"
    train(tiny, run, parts=parts)
    assert list(RunFolder(run).steps()) == [10, 12]
    weights = run / "checkpoints" / "step_0000012" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    sink = ear()
    result = train(tiny, run, resume="resume", parts=parts, sinks=[sink])
    assert [r.step for r in sink.records] == [11, 12]
    assert any("damaged" in note and "step_0000012.damaged" in note for note in sink.notes)
    assert result.notes == tuple(sink.notes)
    assert_same_end(tmp_path / "straight", run)


def test_when_every_checkpoint_is_damaged_the_run_says_so(
    run: Path, tiny: Recipe, parts: Parts
) -> None:
    train(tiny, run, parts=parts)
    for path in RunFolder(run).steps().values():
        (path / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"none of the 2 checkpoints.*--fresh"):
        train(tiny, run, resume="resume", parts=parts)


@pytest.mark.parametrize("start", ["resume", "auto"])
def test_a_run_without_a_usable_checkpoint_keeps_its_records(
    run: Path, tiny: Recipe, parts: Parts, start: Start
) -> None:
    train(tiny, run, parts=parts)
    before = metrics(run)
    for path in RunFolder(run).steps().values():
        path.rename(f"{path}.damaged")
    with pytest.raises(CheckpointError, match=r"--fresh"):
        train(tiny, run, resume=start, parts=parts)
    assert metrics(run) == before
    train(tiny, run, resume="fresh", parts=parts)
    assert not RunFolder(run).damaged()


@pytest.mark.parametrize("save_every", [4, 12])
def test_an_evaluation_that_fails_costs_no_step_and_is_made_up_for(
    tmp_path: Path, tiny: Recipe, ear: type, save_every: int
) -> None:
    recipe = replace(tiny, save_every=save_every, eval_every=save_every)
    looks, out = loss_on_one_batch(recipe), tmp_path / "broken"
    train(recipe, tmp_path / "straight", evaluators=looks)

    def fail(model: torch.nn.Module, step: int) -> dict[str, float]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(recipe, out, evaluators={"look": fail})
    assert list(RunFolder(out).steps()) == [save_every]
    sink = ear()
    result = train(recipe, out, resume="resume", evaluators=looks, sinks=[sink])
    assert [r.step for r in sink.evaluations] == list(range(save_every, 13, save_every))
    assert result.evaluation == sink.evaluations[-1]
    assert_same_end(tmp_path / "straight", out)


@pytest.mark.parametrize(("by", "kept"), [("loss", 4), ("accuracy", 8), ("", None)])
def test_the_best_checkpoint_outlives_the_newest(
    run: Path, tiny: Recipe, parts: Parts, by: str, kept: int | None
) -> None:
    """Evaluated every 4 steps, saved every 5, the last two kept; stopped and resumed in between."""
    curve = {4: (1.0, 0.1), 8: (2.0, 0.7), 12: (3.0, 0.7)}

    def look(model: torch.nn.Module, step: int) -> dict[str, float]:
        return dict(zip(("loss", "accuracy"), curve[step], strict=True)) if step in curve else {}

    recipe = replace(tiny, best_by=by)
    train(replace(recipe, steps=9), run, parts=parts, evaluators={"look": look})
    train(recipe, run, resume="resume", parts=parts, evaluators={"look": look})
    steps = list(RunFolder(run).steps())
    best = RunFolder(run).best()
    if kept is None:
        assert (steps, best) == ([10, 12], None)
        return
    assert best is not None
    assert steps == [kept, 10, 12]
    assert best.checkpoint == f"checkpoints/step_{kept:07d}"
    assert best.value == curve[kept][by == "accuracy"]


def test_the_callers_random_numbers_are_left_alone(run: Path, tiny: Recipe, parts: Parts) -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    train(tiny, run, parts=parts)
    assert torch.equal(torch.rand(3), expected)


def test_evaluating_changes_nothing_about_the_run(
    tmp_path: Path, tiny: Recipe, parts: Parts
) -> None:
    train(tiny, tmp_path / "plain", parts=parts)
    watched = train(tiny, tmp_path / "watched", parts=parts, evaluators=loss_on_one_batch(tiny))
    assert watched.evaluation is not None
    assert set(watched.evaluation.values) == {"look/mean", "look/draw"}
    lines = [line for line in metrics(tmp_path / "watched") if line["kind"] == "step"]
    assert lines == metrics(tmp_path / "plain")
    evaluated = [x["step"] for x in metrics(tmp_path / "watched") if x["kind"] == "eval"]
    assert evaluated == [4, 8, 12]


def test_another_seed_is_another_run(tmp_path: Path, tiny: Recipe, parts: Parts) -> None:
    train(tiny, tmp_path / "a", parts=parts)
    train(replace(tiny, seed=1), tmp_path / "b", parts=parts)
    a, b = metrics(tmp_path / "a"), metrics(tmp_path / "b")
    assert all(x["loss"] != y["loss"] for x, y in zip(a, b, strict=True))


# -- divergence ----------------------------------------------------------------------------------


def test_a_storm_of_nan_stops_the_run_with_the_last_good_weights(
    run: Path, tiny: Recipe, stand_in: Any
) -> None:
    recipe = replace(tiny, optim=replace(tiny.optim, max_skipped=3))
    poison = dict.fromkeys(range(7, 20), float("nan"))
    result = train(
        recipe, run, parts=Parts(model=lambda r: stand_in(r.model, {3: float("inf")} | poison))
    )
    assert (result.status, result.step, result.skipped) == ("diverged", 9, 4)
    assert "last good" in result.message
    _, weights = load_model(result.checkpoint)
    assert all(w.isfinite().all() for w in weights.values())
    skipped = [line["step"] for line in metrics(run) if line["skipped"]]
    assert skipped == [3, 7, 8, 9]
    assert all(line["loss"] is None for line in metrics(run) if line["step"] in (7, 8, 9))


def test_overflows_that_a_smaller_scale_mends_do_not_stop_a_run(
    run: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch, ear: type
) -> None:
    """Some 20 skipped steps in a row, of which none counts; afterwards the run goes on."""
    monkeypatch.setattr(loss_scale, "START", 2.0**40)
    optim = replace(tiny.optim, max_skipped=1)
    recipe = replace(engine(tiny, precision="fp16"), steps=36, save_every=0, optim=optim)
    sink = ear()
    result = train(recipe, run, sinks=[sink])
    skipped = [r.skipped for r in sink.records]
    assert (result.status, result.skipped) == ("finished", sum(skipped))
    first = skipped.index(False)
    assert first > 15
    fell = [r.loss_scale for r in sink.records[: first + 1]]
    assert fell == [2.0**40 / 2**i for i in range(first + 1)]
    assert skipped[first:].count(False) > 10


def test_overflows_at_the_floor_of_the_scale_stop_a_run(
    run: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "START", 8.0)
    monkeypatch.setattr(Spread, "clip", lambda *_: torch.tensor(math.inf))
    recipe = replace(tiny, optim=replace(tiny.optim, max_skipped=4))
    result = train(engine(recipe, precision="fp16"), run)
    # Scales 8, 4 and 2 might have been to blame; one was not, four times.
    assert (result.status, result.step, result.skipped) == ("diverged", 7, 7)


def test_a_loss_that_is_not_finite_counts_whatever_the_scale(
    run: Path, tiny: Recipe, stand_in: Any
) -> None:
    recipe = engine(replace(tiny, optim=replace(tiny.optim, max_skipped=3)), precision="fp16")
    poison = dict.fromkeys(range(1, 20), math.nan)
    result = train(recipe, run, parts=Parts(model=lambda r: stand_in(r.model, poison)))
    assert (result.status, result.step) == ("diverged", 3)


# -- doors ---------------------------------------------------------------------------------------


def test_data_that_the_embedding_has_no_rows_for_is_refused(run: Path, tiny: Recipe) -> None:
    recipe = replace(tiny, data=replace(tiny.data, kind="pointer", states=5))
    with pytest.raises(ConfigError, match=r"5 token ids.*vocab_size is 2"):
        train(recipe, run)
    assert not run.exists()


def test_a_device_that_is_not_here_is_refused(run: Path, tiny: Recipe) -> None:
    for name in ("nonsense", "cuda:97"):
        with pytest.raises(ConfigError, match=f"device '{name}'"):
            train(replace(tiny, device=name), run)
    assert find_device("cpu") == torch.device("cpu")


def test_training_on_a_source_of_ones_own(run: Path, tiny: Recipe, stand_in: Any) -> None:
    source = build_sources(replace(tiny, seed=77)).train
    parts = Parts(model=lambda r: stand_in(r.model), sources=lambda r: Sources(source))
    assert train(tiny, run, parts=parts).status == "finished"
