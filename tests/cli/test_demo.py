from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli import demo
from open_mythos.cli.main import app
from open_mythos.demo.run import DemoResult


FOUND = {"trained_hops": 4, "solved_hops": {"task": 8}, "text_perplexity": {1: 9.0}}


@pytest.mark.parametrize(
    ("result", "code", "said"),
    [
        (DemoResult("finished", Path("x/report.html"), FOUND, 1.0), 0, "report.html"),
        (DemoResult("stopped", None, {}, 1.0), 1, "run it again"),
    ],
)
def test_the_exit_code_says_whether_there_is_a_report(
    result: DemoResult, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def noting(out: Path, plan: Any, **options: Any) -> DemoResult:
        seen.update(out=out, seed=plan.seed, **options)
        return result

    monkeypatch.setattr(demo, "run_demo", noting)
    shown = CliRunner().invoke(app, ["demo", "--out", "x", "--seed", "5", "--fresh"])
    assert shown.exit_code == code
    assert said in shown.stderr
    assert (seen["out"], seen["seed"], seen["resume"]) == (Path("x"), 5, False)
