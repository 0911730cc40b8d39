"""Whatever a case does, the others run, the file is written, and the budget holds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.bench import runner as module
from open_mythos.bench.record import Document, Figure, load
from open_mythos.bench.runner import Limits, Runner
from open_mythos.bench.sizes import size_tiny
from open_mythos.bench.suite import Case, Found, Setting


SETTING = Setting(
    device=torch.device("cpu"), size=size_tiny(), attns=("gqa",), precision="fp32", compile=False
)


def good(value: float = 1.0, case: str = "good") -> Iterator[Found]:
    yield Found(case=case, who="us", figures={"step": Figure(value, "ms")})


def half() -> Iterator[Found]:
    yield Found(case="first half", who="us", figures={"step": Figure(1.0, "ms")})
    raise RuntimeError("broke in /some/body/s/folder/file.py")


def cases(_: Setting) -> list[Case]:
    return [
        Case("half", "us", half, "gqa"),
        Case("long", "us", lambda: good(case="long"), "gqa", seconds=1000),
        Case("nan", "us", lambda: good(float("nan"), "nan"), "mla"),
        Case("good", "us", good, "gqa", seconds=0),
    ]


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Document]:
    def ceilings(setting: Setting) -> Iterator[Found]:
        yield Found(case="copy", who="torch", figures={"bandwidth": Figure(1.0, "TB/s")})
        yield Found(case="product", who="torch", figures={"tflops": Figure(1.0, "TFLOP/s")})

    monkeypatch.setattr(module, "measure", ceilings)
    monkeypatch.setitem(module.SUITES, "tried", cases)

    def run(document: Document | None = None, **limits: Any) -> Document:
        path = tmp_path / "out.json"
        found = document or Document()
        Runner(found, path, lambda line: None, Limits(**limits)).go(SETTING, ["tried"], {"a": 1})
        return load(path)

    return run


def status(document: Document) -> dict[str, str]:
    return {r.case: r.status for r in document.rows.values() if r.suite == "tried"}


def test_a_failing_case_is_a_row_and_the_others_run(go: Callable[..., Document]) -> None:
    found = go(seconds=100)
    assert status(found) == {
        "first half": "ok",
        "half": "error",
        "long": "skipped",
        "nan": "error",
        "good": "ok",
    }
    notes = {(r.case, r.status): r.note for r in found.rows.values()}
    assert notes["half", "error"] == "RuntimeError: broke in file.py"
    assert "1000 s needed" in notes["long", "skipped"]


def test_a_figure_that_is_not_finite_is_an_error(go: Callable[..., Document]) -> None:
    row = next(r for r in go().rows.values() if r.attn == "mla")
    assert (row.status, row.figures, row.note) == ("error", {}, "not finite: step")


def test_only_what_is_asked_for_runs(go: Callable[..., Document]) -> None:
    assert set(status(go(only=["gqa/good"]))) == {"good"}


def test_what_is_there_already_is_left_alone(go: Callable[..., Document]) -> None:
    first = go(only=["gqa/good"])
    second = go(first, missing=True)
    good_row = next(r for r in second.rows.values() if r.case == "good" and r.attn == "gqa")
    assert good_row.run == 0
    assert {r.run for r in second.rows.values() if r.case == "first half"} == {1}
    assert len(second.runs) == 2


def test_a_run_says_what_it_ran_on(go: Callable[..., Document]) -> None:
    run = go().runs[0]
    assert (run["a"], run["size"]) == (1, "tiny")
    assert run["seconds"] >= 0
