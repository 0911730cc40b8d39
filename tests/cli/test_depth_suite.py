from pathlib import Path
from typing import Any

import pytest

from open_mythos.cli import depth_suite
from open_mythos.suite.plan import make_plan
from open_mythos.suite.run import SuiteResult


FOUND = {"sentences": {"pointer": ["mythos: gains."]}}


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
        (result("finished", "x/report.html", {}), 0, ("mythos: gains.", "open x/report.html")),
        (result("stopped", None, {}), 1, ("run it again",)),
        (result("failed", "x/report.html", {"a": "b"}), 1, ("a has no result: b", "report.html")),
    ],
)
def test_the_exit_code_and_the_last_words_say_how_it_ended(
    found: SuiteResult,
    code: int,
    said: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(depth_suite, "run_suite", lambda *_, **__: found)
    plan = make_plan("cpu", tasks=["words"])
    assert depth_suite.run(plan, out=Path("x"), jobs=1, resume=True) == code
    shown = capsys.readouterr().err
    assert all(text in shown for text in said)


def test_lists_are_parted_by_commas() -> None:
    assert depth_suite.names("words, pointer,") == ["words", "pointer"]
    assert depth_suite.names("") == []
