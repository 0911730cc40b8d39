"""From words on the command line to what is asked."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli import evaluate
from open_mythos.cli.evaluate import Asked
from open_mythos.cli.main import app


def test_options_become_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(evaluate, "run", lambda asked, **given: seen.update(given, asked=asked))
    words = ["--tasks", "a, b,", "--loops", "1,4", "--exit", "kl:0.1", "--limit", "5", "--harness"]
    more = ["--include", "more", "--device", "cpu", "--json", "--quantize", "int4"]
    assert CliRunner().invoke(app, ["eval", "run", *words, *more]).exit_code == 0
    asked = Asked(("a", "b"), "1,4", "kl:0.1", 5, True, Path("more"), quantised="int4")
    assert seen["asked"] == asked
    assert (seen["checkpoint"], seen["device"], seen["as_json"]) == (Path("run"), "cpu", True)
    assert CliRunner().invoke(app, ["eval", "run"]).exit_code == 0
    assert seen["asked"] == Asked()
