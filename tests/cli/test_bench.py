"""bench: a file that grows, a table from it, and one line for a mistake."""

from pathlib import Path
from typing import Any

import pytest

from open_mythos.bench.clock import Clock
from open_mythos.bench.record import load
from open_mythos.bench.table import BEGIN, END
from open_mythos.cli.bench import Options, run, table
from open_mythos.errors import InputError


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPEN_MYTHOS_PEER", raising=False)
    # Times of one step: how times are taken is tests/bench/test_clock's.
    monkeypatch.setattr(Clock, "time", lambda self, step, **_: self.exactly(step, 1))


def options(out: Path, *suites: str, **changes: Any) -> Options:
    given: dict[str, Any] = {
        "suites": suites,
        "size": "tiny",
        "attn": "gqa",
        "peer": None,
        "out": out,
        "budget": None,
        "only": "",
        "missing": False,
        "compile": None,
        "threads": 0,
        "device": "cpu",
    }
    return Options(**{**given, **changes})


def test_a_run_is_added_to_the_file_and_tabulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench-tiny.json"
    assert run(options(out, "prefill", only="open_mythos")) == 0
    assert run(options(out, "decode", only="open_mythos", missing=True)) == 0
    document = load(out)
    assert [r["command"] for r in document.runs] == [
        "open-mythos bench prefill --size tiny --attn gqa --only open_mythos",
        "open-mythos bench decode --size tiny --attn gqa --only open_mythos --missing",
    ]
    assert {row.suite for row in document.rows.values()} == {"ceilings", "prefill", "decode"}
    assert "0 error" in capsys.readouterr().err


def test_nothing_found_is_a_failure(tmp_path: Path) -> None:
    assert run(options(tmp_path / "o.json", "decode", budget=0.0)) == 1
    document = load(tmp_path / "o.json")
    assert {row.status for row in document.rows.values()} == {"skipped"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn": "gqa,xyz"}, "--attn"),
        ({"attn": ""}, "--attn"),
        ({"size": "huge"}, "no size"),
        ({"suites": ("nothing",)}, "no suite"),
    ],
)
def test_a_mistake_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(options(tmp_path / "o.json", **changes))


def test_tables_come_from_a_file_or_a_folder_and_go_into_a_readme(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench-x.json"
    row = (
        '{"suite": "prefill", "size": "R", "attn": "gqa", "case": "prompt", "who": "open_mythos",'
        '"status": "ok", "run": 0, "figures": {"tokens_per_second": {"value": 5.0, "unit": "/s"}}}'
    )
    entry = '{"device_name": "d", "torch": "t", "started": "2026-01-01T00", "git": null}'
    out.write_text(f'{{"format": 1, "runs": [{entry}], "rows": [{row}]}}', encoding="utf-8")
    table(out, None)
    shown = capsys.readouterr().out
    assert "| prefill, tokens/s | 5 |" in shown
    readme = tmp_path / "R.md"
    readme.write_text(f"a\n{BEGIN}\n{END}\nb\n", encoding="utf-8")
    table(tmp_path, readme)
    assert readme.read_text(encoding="utf-8") == f"a\n{BEGIN}\n{shown.strip()}\n{END}\nb\n"


@pytest.mark.parametrize("name", ["nothing.json", ""])
def test_a_table_of_nothing_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="measure first"):
        table(tmp_path / name, None)
