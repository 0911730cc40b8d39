"""Results survive the file, and a failure never pushes out a figure."""

import json
from pathlib import Path
from typing import Any

import pytest

from open_mythos.bench.record import Document, Figure, Row, load, load_all, rounded
from open_mythos.errors import InputError


def row(case: str = "step", value: float | None = 2.0, **changes: Any) -> Row:
    figures = {} if value is None else {"step": Figure(value, "ms", (1.0, value, 3.0))}
    return Row(
        **{
            "suite": "train",
            "size": "R",
            "attn": "gqa",
            "case": case,
            "who": "us",
            "figures": figures,
            "status": "ok" if figures else "error",
            **changes,
        }
    )


def test_a_document_comes_back_from_its_file(tmp_path: Path) -> None:
    document = Document()
    document.begin({"torch": "2"})
    document.put(row(shape={"batch": 4}, detail=[{"kernel": "k", "ms": 1.5}], note="n"))
    document.put(row("other", None, note="OSError: x"))
    document.save(tmp_path / "new" / "file.json")
    again = load(tmp_path / "new" / "file.json")
    assert again.runs == document.runs
    assert [r.to_json() for r in again.rows.values()] == [
        r.to_json() for r in document.rows.values()
    ]
    assert again.find("train", "R", "gqa", "step", "us") is not None
    assert again.find("train", "R", "gqa", "other", "us") is None


def test_a_line_of_the_file_is_a_row(tmp_path: Path) -> None:
    document = Document()
    for case in "abc":
        document.put(row(case))
    document.save(tmp_path / "f.json")
    lines = (tmp_path / "f.json").read_text(encoding="utf-8").splitlines()
    parsed = [json.loads(line.rstrip(",")) for line in lines if line.startswith('{"suite"')]
    assert [line["case"] for line in parsed] == ["a", "b", "c"]
    assert all(line["figures"]["step"]["unit"] == "ms" for line in parsed)


def test_a_failure_does_not_push_out_a_figure_but_a_new_figure_does() -> None:
    document = Document()
    document.put(row(value=None))
    document.put(row(value=2.0))
    document.put(row(value=None, status="skipped"))
    assert document.rows[row().key].figures["step"].value == 2.0
    document.put(row(value=5.0))
    assert document.rows[row().key].figures["step"].value == 5.0


def test_rows_of_several_files_keep_their_runs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        document = Document()
        document.begin({"name": name})
        document.put(row(name))
        document.put(row("both", value=1.0 + ord(name)))
        document.save(tmp_path / f"{name}.json")
    whole = load_all([tmp_path / "a.json", tmp_path / "b.json"])
    names = {r.case: whole.runs[r.run]["name"] for r in whole.rows.values()}
    assert names == {"a": "a", "b": "b", "both": "b"}


@pytest.mark.parametrize("text", ["[]", '{"format": 99, "runs": [], "rows": []}'])
def test_what_is_no_results_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="results file"):
        load(tmp_path / "f.json")


@pytest.mark.parametrize(("value", "kept"), [(1.23456789, 1.23457), (123456789.0, 123457000.0)])
def test_six_digits_are_kept(value: float, kept: float) -> None:
    assert rounded(value) == kept
