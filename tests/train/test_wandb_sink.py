import importlib
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from open_mythos.config.overrides import to_plain
from open_mythos.errors import MissingExtraError
from open_mythos.train import wandb_sink
from open_mythos.train.recipe import Recipe
from open_mythos.train.records import EvalRecord, StepRecord
from open_mythos.train.sinks import RunInfo
from open_mythos.train.wandb_sink import WandbSink, choose_mode, has_key, run_id


ADDRESS = "https://api.example.invalid"
VARIABLES = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_PROJECT", "NETRC")


class FailedError(Exception):
    pass


@dataclass
class Logged:
    """A run as wandb gives one."""

    step: int = 0
    url: str = "https://example.invalid/run"
    history: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    broken_at: int | None = None
    finished: int = 0
    hangs: threading.Event | None = None

    def log(self, values: dict[str, Any], step: int) -> None:
        if step == self.broken_at:
            raise FailedError("the service is gone\nand more")
        self.history.append((step, values))

    def finish(self) -> None:
        self.finished += 1
        if self.hangs is not None:
            self.hangs.wait(30)


@dataclass
class Fake:
    """As much of the wandb module as is called."""

    run: Logged = field(default_factory=Logged)
    calls: list[dict[str, Any]] = field(default_factory=list)
    refuses: tuple[str, ...] = ()
    errors: Any = field(default_factory=lambda: SimpleNamespace(Error=FailedError))

    def init(self, **words: Any) -> Logged:
        self.calls.append(words)
        if words["mode"] in self.refuses:
            raise FailedError(f"{words['mode']} does not work")
        return self.run

    def Settings(self, **words: Any) -> Any:
        return SimpleNamespace(base_url=ADDRESS, **words)

    def Html(self, text: str) -> str:
        return f"html:{text}"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    found = Fake()
    monkeypatch.setitem(sys.modules, "wandb", found)  # type: ignore[arg-type]
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(wandb_sink, "hub_answers", lambda address: True)
    return found


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        loss=float(step),
        accuracy=0.5,
        lr=0.1,
        grad_norm=1.0,
        n_loops=2,
        mean_loops=2.0,
        tokens=step,
        tokens_per_second=1.0,
    )


def drive(recipe: Recipe, folder: Path, start: int = 0, last: int = 4) -> list[str]:
    said: list[str] = []
    sink = WandbSink()
    sink.note("before it is opened")
    sink.open(RunInfo(recipe, folder, start, "cpu", 1, said.append))
    for step in range(start + 1, last + 1):
        sink.step(record(step))
    texts = {"samples/1": "<to be>"}
    sink.evaluation(EvalRecord(step=last, values={"validation/loss": 2.0}, texts=texts))
    sink.close()
    sink.close()
    return said


def test_without_a_key_the_run_is_kept_offline_and_says_so_once(
    fake: Fake, tmp_path: Path, tiny: Recipe
) -> None:
    said = drive(tiny, tmp_path / "one")
    assert len(said) == 1
    assert "no API key" in said[0]
    assert "wandb sync" in said[0]
    (call,) = fake.calls
    assert (call["mode"], call["project"], call["name"]) == ("offline", "open-mythos", "one")
    assert call["config"] == to_plain(tiny)
    assert call["dir"] == str(tmp_path / "one")
    assert "resume" not in call  # offline runs cannot be resumed
    steps = [(step, values) for step, values in fake.run.history if "train/loss" in values]
    assert [(step, values["train/loss"]) for step, values in steps] == [(n, n) for n in range(1, 5)]
    assert fake.run.history[-1] == (
        4,
        {"eval/validation/loss": 2.0, "samples/1": "html:<pre>&lt;to be&gt;</pre>"},
    )
    assert fake.run.finished == 1


def test_without_an_answer_it_is_offline_too(
    fake: Fake, tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setattr(wandb_sink, "hub_answers", lambda address: False)
    said = drive(tiny, tmp_path)
    assert [call["mode"] for call in fake.calls] == ["offline"]
    assert len(said) == 1
    assert ADDRESS in said[0]


def test_online_a_resumed_run_goes_on_under_its_id_without_doubled_steps(
    fake: Fake, tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    told = [f"wandb: {fake.run.url}"]
    assert drive(tiny, tmp_path) == told
    fake.run.step = 5  # what the server has seen is 0 to 4
    assert drive(tiny, tmp_path, start=2, last=7) == told
    first, second = fake.calls
    assert first["mode"] == second["mode"] == "online"
    assert first["id"] == second["id"] == run_id(tmp_path)
    assert first["resume"] == "allow"
    assert first["project"] == "mine"
    assert first["settings"].init_timeout == wandb_sink.BEGIN_S
    shown = [step for step, values in fake.run.history if "train/loss" in values]
    assert shown == [1, 2, 3, 4, 5, 6, 7]
    (tmp_path / "other").mkdir()
    assert run_id(tmp_path / "other") != run_id(tmp_path)


def test_whatever_fails_ends_the_sending_and_never_the_run(
    fake: Fake, tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k")
    fake.refuses = ("online",)
    said = drive(tiny, tmp_path)
    assert [call["mode"] for call in fake.calls] == ["online", "offline"]
    assert len(said) == 1
    assert "online does not work" in said[0]
    fake.refuses = ("online", "offline")
    fake.run.history.clear()
    assert drive(tiny, tmp_path) == ["wandb is left out: offline does not work"]
    assert not fake.run.history
    fake.refuses, fake.run.broken_at = (), 3
    assert drive(tiny, tmp_path)[-1] == "wandb stopped at step 3: the service is gone"
    assert [step for step, _ in fake.run.history] == [1, 2]


def test_an_end_that_hangs_is_left_behind(
    fake: Fake, tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_sink, "END_S", 0.05)
    fake.run.hangs = threading.Event()
    began = time.monotonic()
    said = drive(tiny, tmp_path)
    assert time.monotonic() - began < 20.0
    assert "did not end" in said[-1]
    fake.run.hangs.set()


@pytest.mark.parametrize("mode", ["offline", "online", "disabled"])
def test_what_the_user_asks_for_is_done_without_a_question(
    fake: Fake, tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert choose_mode(ADDRESS) == (mode, "")
    assert drive(tiny, tmp_path) == ([f"wandb: {fake.run.url}"] if mode == "online" else [])
    assert [call["mode"] for call in fake.calls] == [mode]


def test_a_key_is_one_that_wandb_would_find(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = "api.example.invalid"
    assert not has_key(host)
    (tmp_path / ".netrc").write_text("machine elsewhere.invalid login user password p\n")
    assert not has_key(host)
    (tmp_path / ".netrc").write_text(f"machine {host} login user password p\n")
    assert has_key(host)
    (tmp_path / ".netrc").write_text("not a netrc file")
    assert not has_key(host)
    own = tmp_path / "own"
    own.write_text("machine api.wandb.ai login user password p\n")
    monkeypatch.setenv("NETRC", str(own))
    assert has_key(host)
    monkeypatch.delenv("NETRC")
    monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", "token")
    assert has_key(host)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"open-mythos\[wandb\]"):
        WandbSink()


def test_the_real_package_keeps_an_offline_run(
    tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    assert importlib.import_module("wandb").__version__
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    said = drive(replace(tiny, name="real"), tmp_path)
    assert len(said) == 1
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
