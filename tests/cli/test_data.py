"""The command prepares, checks, watches and stops; what it prepared can be trained on."""

import io
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from open_mythos.cli.data import Watcher
from open_mythos.cli.main import app
from open_mythos.data import jobs
from open_mythos.data.prepare import Progress


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    records = [{"body": f"Document {i} says " + "word " * i} for i in range(60)]
    path.write_text("\n".join(map(json.dumps, [*records, {"no": 1}])))
    return path


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["data", *map(str, words)])


def test_prepare_says_what_there_is_and_check_says_it_again(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["prepare", source, "--out", out, "--field", "body", "--validation-share", 0.2]
    failed = run(*words)
    assert failed.exit_code == 2
    assert "line 61: no field 'body'" in failed.output
    done = run(*words, "--skip-bad")
    assert done.exit_code == 0, done.output
    assert "train: " in done.stdout
    assert "left out: 1 bad records, 0 blank ones" in done.stdout
    assert "% packed, as training does it" in done.stdout
    assert "bytes a token" in done.stdout
    assert run("check", out).stdout == done.stdout
    shard = out / "train-00000.bin"
    shard.write_bytes(bytes(shard.stat().st_size))
    damaged = run("check", out)
    assert damaged.exit_code == 2
    assert "is not what was written" in damaged.output


def test_nothing_held_out_is_said(source: Path, tmp_path: Path) -> None:
    words = ["prepare", source, "--out", tmp_path / "out", "--field", "body", "--skip-bad"]
    assert "no document was held out" in run(*words, "--validation-share", 0).stdout


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_stops_it_and_the_same_command_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(jobs.Sorter.__init__, "__defaults__", (1000,))
    words = ["prepare", source, "--field", "body", "--skip-bad", "--shard-tokens", 500]
    words += ["--tokenizer", "byte", "--workers", workers, "--out"]
    calls = 0

    def interrupting(watcher: Watcher, now: Progress) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Watcher, "__call__", interrupting)
        stopped = run(*words, tmp_path / "out")
    assert stopped.exit_code == 130
    assert "run the same command again to go on" in stopped.output
    begun = json.loads((tmp_path / "out" / "unfinished.json").read_text())
    assert 500 < begun["splits"]["train"]["tokens"] < 5000
    assert run(*words, tmp_path / "out").exit_code == 0
    assert run(*words, tmp_path / "straight").exit_code == 0
    for path in (tmp_path / "straight").glob("*.*"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def progress(share: float, total: int | None = 1000) -> Progress:
    n = int(share * 1000)
    return Progress(read=n, total=total, text_bytes=n, tokens=n, documents=n, skipped=n // 500)


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    file = io.StringIO()
    watcher = Watcher(Console(file=file))
    for second in range(25):
        now[0] = float(second)
        watcher(progress(second / 25))
    watcher.close()
    lines = file.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("40.0%  400 documents  0.0M tokens")
    assert lines[1].startswith("80.0%  800 documents")
    assert lines[1].endswith("MB/s  1 skipped")
    now[0] = 40.0
    watcher(progress(0.9, None))
    assert file.getvalue().splitlines()[2].startswith("900 documents")


@pytest.mark.parametrize("total", [1000, None])
def test_a_terminal_gets_one_live_line(total: int | None) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=150)
    watcher = Watcher(console)
    for share in (0.1, 0.5, 1.0):
        watcher(progress(share, total))
    watcher.close()
    watcher.close()
    assert "1,000 documents" in file.getvalue()
    assert ("ETA" in file.getvalue()) == (total is not None)


def test_the_speed_is_that_of_this_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier call did must not count as done in no time."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watcher = Watcher(Console(file=io.StringIO()))
    before = Progress(read=0, total=None, text_bytes=10**9, tokens=1, documents=1, skipped=0)
    watcher(before)
    now[0] = 110.0
    later = Progress(read=0, total=None, text_bytes=10**9 + 10**8, tokens=2, documents=2, skipped=0)
    watcher(later)
    assert "10.0 MB/s" in watcher.words(later)


def test_a_prepared_folder_trains(source: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "run", tmp_path / "out"
    words = ["--field", "body", "--skip-bad", "--validation-share", 0.2]
    assert run("prepare", source, "--out", folder, *words).exit_code == 0
    small = ["model.dim=16", "model.expert_dim=8", "model.max_loop_iters=2", "steps=1"]
    text = [f"data.corpus={folder}", "data.batch_size=2", "data.seq_len=16"]
    trained = CliRunner().invoke(app, ["train", "cpu-tiny", *small, *text, "--out", str(out)])
    assert trained.exit_code == 0, trained.output
    lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("validation/bits_per_byte" in x.get("values", {}) for x in lines)
