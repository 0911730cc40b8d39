"""Tables and curves of the results pages: made of the files, all of them, and of nothing else."""

import json
import re
from pathlib import Path

import pytest

from website import results
from website.figures import FIGURES
from website.results import RESULTS, TABLES


ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
ASKED = {
    name
    for page in PAGES
    for name in re.findall(r"^<!-- results: (\S+) -->$", page.read_text(encoding="utf-8"), re.M)
}


def numbers(value: object) -> list[float]:
    """Every number in plain data."""
    if isinstance(value, dict):
        return [n for part in value.values() for n in numbers(part)]
    if isinstance(value, list):
        return [n for part in value for n in numbers(part)]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return [float(value)] if is_number else []


def test_pages_ask_for_every_table_and_for_no_other() -> None:
    assert set(TABLES) == ASKED


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_a_cell_for_every_head(name: str) -> None:
    tables = re.findall(r"(?:^\|.*\|$\n?)+", TABLES[name](), re.M)
    assert tables
    for table in tables:
        lines = table.strip().splitlines()
        assert len(lines) > 2
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(widths) == 1, lines


@pytest.mark.parametrize("name", ["text-120m", "text-prose", "demo", "text-4m"])
def test_figures_with_decimals_are_rounded_numbers_of_the_file(name: str) -> None:
    text = TABLES[name]()
    (file,) = set(re.findall(r"json/(\S+?)\)", text))
    known = numbers(json.loads((RESULTS / file).read_text(encoding="utf-8")))
    known += [n / 1e6 for n in known]  # parameters, in millions
    cells = re.findall(r"(?<=\| )(\d+\.\d+)(?=M? \|)", text)
    assert len(cells) > 8
    for cell in cells:
        places = len(cell.partition(".")[2])
        assert any(f"{n:.{places}f}" == cell for n in known), cell


def test_a_table_follows_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    before = TABLES["demo-text"]()
    found = results.load("demo-2cpu.json")
    found["findings"]["text_perplexity"]["1"] = 12.345
    monkeypatch.setattr(results, "load", lambda _: found)
    after = TABLES["demo-text"]()
    assert before != after
    assert "12.35" in after or "12.34" in after


def test_the_list_of_files_is_whole() -> None:
    listed = set(re.findall(r"json/(\S+?)\)", TABLES["files"]()))
    assert listed == {path.name for path in RESULTS.glob("*.json")}


def test_figures_are_shown_and_drawn_of_the_numbers() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"figures/([\w-]+)\.svg", text)) == set(FIGURES)
    (axes,) = FIGURES["text-prose"]().axes
    drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
    arms = results.load("depth-text-4-epochs.json")["arms"]
    for arm in arms:
        if len(arm["perplexity"]) > 1:
            assert list(drawn[arm["arm"]]) == list(arm["perplexity"].values())
