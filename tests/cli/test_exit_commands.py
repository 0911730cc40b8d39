"""Options reach the work."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli.main import app


def test_options_reach_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def run(**words: Any) -> int:
        calls.append(words)
        return 1

    module = types.ModuleType("open_mythos.cli.calibrate")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "open_mythos.cli.calibrate", module)
    text = "m --data t.txt --budget 1% --exits kl --loops 6 --batches 3 --json n.json --out p.html"
    words = [*text.split(), "--device", "cpu"]
    assert CliRunner().invoke(app, ["calibrate", *words]).exit_code == 1
    assert calls == [
        {
            "checkpoint": Path("m"),
            "data": Path("t.txt"),
            "budget": "1%",
            "exits": "kl",
            "n_loops": 6,
            "batches": 3,
            "json_file": Path("n.json"),
            "out": Path("p.html"),
            "task": None,
            "device": "cpu",
        }
    ]
    assert CliRunner().invoke(app, ["calibrate", "m", "--n-loops", "0"]).exit_code == 2
