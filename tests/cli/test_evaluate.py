"""From a run to a table of scores against loops."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli.evaluate import loops_of
from open_mythos.cli.main import app
from open_mythos.cli.opening import open_checkpoint
from open_mythos.errors import InputError
from open_mythos.eval.offline_scores import score_offline
from open_mythos.eval.score_table import ScoreTable


def invoke(*words: Any) -> Any:
    return CliRunner().invoke(app, ["eval", *map(str, words), "--device", "cpu"])


def test_one_run_has_a_column_per_number_of_loops(text_run: Path) -> None:
    words = ["--tasks", "mythos_steps,mythos_sums", "--loops", "2,1", "--limit", "2"]
    shown = invoke(text_run, *words)
    assert shown.exit_code == 0, shown.output
    assert shown.output.index("1 loop ") < shown.output.index("2 loops")
    opened = open_checkpoint(text_run)
    want = score_offline(
        opened.model, opened.tokenizer, ["mythos_steps", "mythos_sums"], [1, 2], limit=2
    )
    assert json.loads(invoke(text_run, *words, "--json").output) == want.to_json()


def test_other_tasks_are_the_harnesss(text_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def asked(model: Any, tokenizer: Any, names: Any, loops: Any, **how: Any) -> ScoreTable:
        seen.append((tuple(names), tuple(loops), how))
        return ScoreTable({"hellaswag": {"acc": {1: 0.25}}})

    stub = SimpleNamespace(evaluate_loops=asked)
    monkeypatch.setitem(sys.modules, "open_mythos.eval.harness", stub)
    assert "0.2500" in invoke(text_run, "--tasks", "hellaswag,mythos_sums", "--loops", 1).output
    assert "0.2500" in invoke(text_run, "--tasks", "mythos_sums", "--harness").output
    assert [names for names, _, _ in seen] == [("hellaswag", "mythos_sums"), ("mythos_sums",)]
    assert [loops for _, loops, _ in seen] == [(1,), (1, 2)]


def test_without_the_harness_the_extra_is_named(
    text_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "open_mythos.eval.harness", None)
    shown = invoke(text_run, "--tasks", "hellaswag")
    assert shown.exit_code == 2
    assert "open-mythos[eval]" in shown.stderr


def test_a_model_of_a_task_has_no_words(task_run: Path) -> None:
    shown = invoke(task_run, "--tasks", "mythos_sums")
    assert shown.exit_code == 2
    assert "tokenizer" in shown.stderr


@pytest.mark.parametrize("typed", ["0", "1,x", "1;2"])
def test_loops_that_are_none_are_refused(typed: str) -> None:
    assert loops_of("4,1,4", 9) == (1, 4)
    assert loops_of("", 9) == (1, 9)
    assert loops_of("", 1) == (1,)
    with pytest.raises(InputError, match=typed):
        loops_of(typed, 2)
