"""From words on the command line to a plan."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli import retrofit
from open_mythos.cli.main import app
from open_mythos.retrofit.surgery import Plan


def test_options_become_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(retrofit, "run", lambda **given: seen.update(given))
    words = "--prelude 3 --core 4 --coda 5 --core-start 6 --loops 7 --start none --carry 0.25"
    words += " --max-seq-len 128 --out to"
    assert CliRunner().invoke(app, ["retrofit", "from", *words.split()]).exit_code == 0
    plan = Plan(
        prelude=3, core=4, coda=5, core_start=6, loops=7, start="none", carry=0.25, max_seq_len=128
    )
    assert seen == {"source": Path("from"), "out": Path("to"), "plan": plan}


def test_folded_layers_read_what_the_ones_before_said(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(retrofit, "run", lambda **given: seen.update(given))
    words = ["retrofit", "from", "--core", "2", "--lora-rank", "16", "--shared", "step"]
    assert CliRunner().invoke(app, words).exit_code == 0
    plan = Plan(prelude=8, core=2, coda=8, start="none", lora_rank=16, shared="step")
    assert seen["plan"] == plan
    assert CliRunner().invoke(app, ["retrofit", "from"]).exit_code == 0
    assert seen["plan"] == Plan(prelude=8, core=8, coda=8)


def test_a_start_that_there_is_not_is_one_line() -> None:
    result = CliRunner().invoke(app, ["retrofit", "from", "--start", "nothing"])
    assert result.exit_code == 2
    assert "start is 'nothing'" in result.stderr
