"""From words on the command line to a plan."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli import depth_suite
from open_mythos.cli.main import app
from open_mythos.suite.plan import Plan


def test_options_become_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def noting(plan: Plan, **options: Any) -> int:
        seen.update(plan=plan, **options)
        return 0

    monkeypatch.setattr(depth_suite, "run", noting)
    words = ["--tasks", "words, pointer", "--designs", "om05", "--seeds", "1", "--steps", "4"]
    more = ["--jobs", "3", "--device", "cpu", "--out", "x", "--fresh"]
    shown = CliRunner().invoke(app, ["depth-suite", *words, *more])
    assert shown.exit_code == 0
    cells = seen["plan"].cells
    assert [one.name for one in cells] == ["words om05 seed 0", "pointer om05 seed 0"]
    assert {(one.recipe.steps, one.recipe.device) for one in cells} == {(4, "cpu")}
    assert (seen["out"], seen["jobs"], seen["resume"]) == (Path("x"), 3, False)


def test_a_wrong_task_is_a_sentence_with_the_right_one() -> None:
    shown = CliRunner().invoke(app, ["depth-suite", "--tasks", "pointr"])
    assert shown.exit_code == 2
    assert "did you mean 'pointer'" in shown.stderr


def test_help_names_the_sizes() -> None:
    shown = CliRunner().invoke(app, ["depth-suite", "--help"])
    assert shown.exit_code == 0
    assert "cpu" in shown.stdout
    assert "gpu" in shown.stdout
