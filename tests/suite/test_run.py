import json
from pathlib import Path

import pytest
from rich.console import Console

from open_mythos.suite.plan import Plan
from open_mythos.suite.pool import Pool
from open_mythos.suite.problems import Problem
from open_mythos.suite.run import run_suite
from open_mythos.suite.verdict import MEANINGS
from tests.suite.conftest import plan_of


QUIET = Console(quiet=True)


@pytest.mark.slow
def test_a_tiny_suite_from_start_to_end_and_again(tied: Problem, out: Path) -> None:
    plan = plan_of(tied, designs=("mythos", "om05"))
    result = run_suite(out, plan, jobs=2, console=QUIET)
    assert (result.status, result.failed) == ("finished", {})
    assert result.report is not None
    assert "Sums, tied" in result.report.read_text()
    told = json.loads((out / "suite.json").read_text())
    assert [(c["design"], c["seed"]) for c in told["cells"]] == [("mythos", 0), ("om05", 0)]
    assert {c["verdict"]["kind"] for c in told["cells"]} <= set(MEANINGS)
    assert told["findings"] == json.loads(json.dumps(result.findings))
    assert (out / "figures" / "tied-maps.png").read_bytes().startswith(b"\x89PNG")

    metrics = {p: p.read_bytes() for p in out.rglob("metrics.jsonl")}
    again = run_suite(out, plan, jobs=1, console=QUIET)
    assert again.findings == result.findings
    assert {p: p.read_bytes() for p in out.rglob("metrics.jsonl")} == metrics


def ending(end: str) -> object:
    def run(self: Pool, cells: object) -> None:
        self.ends = {one.name: end for one in cells}  # type: ignore[attr-defined, misc]
        self.whys = dict.fromkeys(self.ends, "no memory") if end == "failed" else {}

    return run


def test_a_suite_that_was_stopped_has_no_report(
    plan: Plan, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pool, "run", ending("stopped"))
    result = run_suite(out, plan, console=QUIET)
    assert (result.status, result.report) == ("stopped", None)


def test_cells_that_failed_are_named_with_their_reason(
    plan: Plan, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pool, "run", ending("failed"))
    result = run_suite(out, plan, console=QUIET)
    assert (result.status, result.report) == ("failed", None)
    assert result.failed == {one.name: "no memory" for one in plan.cells}
