"""Trained runs, as small as they get, shared by the commands' tests; and a Ctrl-C that is heard."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from open_mythos.cli.main import app


SMALL = [
    "model.dim=16",
    "model.expert_dim=8",
    "model.max_loop_iters=2",
    "data.batch_size=2",
    "steps=2",
    "eval_every=0",
    "save_every=0",
]


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on text, two steps long."""
    out = tmp_path_factory.mktemp("runs") / "text"
    words = ["train", "cpu-tiny", *SMALL, "data.seq_len=16", "--out", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def task_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pointer chasing, two steps long."""
    out = tmp_path_factory.mktemp("runs") / "task"
    words = ["train", "demo-task", *SMALL, "data.max_hops=2", "--out", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def mixed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on several tasks, two steps long."""
    out = tmp_path_factory.mktemp("runs") / "mixed"
    words = ["train", "task-mixed", *SMALL, "model.dense_hidden=16", "--out", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts, also where a shell that started this in its background had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
