"""The pages' tables are the ones that the committed results give."""

from pathlib import Path

import pytest

from open_mythos.bench.record import load_all
from open_mythos.bench.table import insert, results_files


ROOT = Path(__file__).resolve().parents[2]
RESULTS = results_files(ROOT / "benchmarks" / "results")


@pytest.mark.skipif(not RESULTS, reason="no results are committed yet")
@pytest.mark.parametrize("page", ["README.md", "benchmarks/README.md"])
def test_pages_show_what_was_measured(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text == insert(text, load_all(RESULTS)), f"open-mythos bench --table --readme {page}"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_every_result_says_what_it_ran_on_and_every_number_has_a_unit(path: Path) -> None:
    document = load_all([path])
    assert document.runs
    for run in document.runs:
        assert {"torch", "device_name", "git", "command", "started"} <= set(run)
    for row in document.rows.values():
        assert row.figures or row.note
        assert all(figure.unit for figure in row.figures.values())
