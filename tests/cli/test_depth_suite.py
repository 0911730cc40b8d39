from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli import depth_suite
from open_mythos.cli.main import app
from open_mythos.suite.plan import Plan
from open_mythos.suite.run import SuiteResult


FOUND = {"sentences": {"pointer": ["ours: gains."]}}


def result(status: Any, page: str | None, failed: dict[str, str]) -> SuiteResult:
    return SuiteResult(
        status=status,
        report=None if page is None else Path(page),
        findings=FOUND if page else {},
        failed=failed,
        seconds=2.0,
    )


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        (result("finished", "x/report.html", {}), 0, ("ours: gains.", "open x/report.html")),
        (result("stopped", None, {}), 1, ("run it again",)),
        (result("failed", "x/report.html", {"a": "b"}), 1, ("a has no result: b", "report.html")),
    ],
)
def test_options_reach_the_suite_and_the_exit_code_says_how_it_ended(
    found: SuiteResult, code: int, said: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def noting(out: Path, plan: Plan, **options: Any) -> SuiteResult:
        seen.update(out=out, plan=plan, **options)
        return found

    monkeypatch.setattr(depth_suite, "run_suite", noting)
    words = ["--tasks", "words, pointer", "--designs", "om05", "--seeds", "1", "--steps", "4"]
    more = ["--jobs", "3", "--device", "cpu", "--out", "x", "--fresh"]
    shown = CliRunner().invoke(app, ["depth-suite", *words, *more])
    assert shown.exit_code == code
    assert all(text in shown.stderr for text in said)
    assert [one.name for one in seen["plan"].cells] == ["words om05 seed 0", "pointer om05 seed 0"]
    assert {(c.recipe.steps, c.recipe.device) for c in seen["plan"].cells} == {(4, "cpu")}
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
