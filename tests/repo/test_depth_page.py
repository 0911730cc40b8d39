"""docs/depth.md shows what the committed results say, and nothing that is not there."""

import importlib
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import pytest

from open_mythos.errors import InputError


ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "depth.md"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/depth_tables.py and what it reads, a script's neighbours and in no package."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("depth_tables")


def test_the_page_shows_what_was_measured(told: ModuleType) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == told.insert(text, told.tables()), "python benchmarks/depth_figures.py"


def test_every_picture_of_the_page_is_there_and_small() -> None:
    pictures = re.findall(r"\]\((images/[^)]+)\)", PAGE.read_text(encoding="utf-8"))
    assert pictures
    for name in pictures:
        path = PAGE.parent / name
        assert path.is_file(), "python benchmarks/depth_figures.py"
        assert path.stat().st_size < 150_000


def test_without_results_every_part_says_so(told: ModuleType, tmp_path: Path) -> None:
    made = told.tables(tmp_path)
    assert all(re.fullmatch(r"No [\w -]+ yet\.", text) for text in made.values()), made
    page = told.insert(PAGE.read_text(encoding="utf-8"), made)
    assert "images/" not in page
    with pytest.raises(InputError, match="lacks <!-- depth-loops:begin -->"):
        told.insert("nothing", made)


def test_a_file_that_is_no_json_is_named(told: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "depth-text.json").write_text("{")
    with pytest.raises(InputError, match=r"depth-text\.json is no JSON"):
        told.tables(tmp_path)


def arm(name: str, seed: int, home: float, **model: Any) -> dict[str, Any]:
    """A run as benchmarks/depth_text.py writes it: perplexities around `home` at 8 loops."""
    once = name in ("one-pass", "untied")
    curve = {"1": home} if once else {"1": 2 * home, "4": home + 1, "8": home, "64": home + 2}
    return {
        "arm": name,
        "seed": seed,
        "tokens": 13_400_000,
        "parameters": 1e6,
        "flops_per_token": 2e6,
        "mean_loops": 1.0 if once else 8.0,
        "recipe": {"name": name, "seed": seed, "model": {"injection": "lti", **model}},
        "perplexity": curve,
    }


def test_gaps_and_spreads_are_taken_seed_by_seed(told: ModuleType, tmp_path: Path) -> None:
    draw = random.Random()
    once, deep, ours = ([draw.uniform(*ends) for _ in range(3)]
                        for ends in ((30, 31), (25, 26), (27, 28)))  # fmt: skip
    runs = [
        arm(name, seed, values[seed])
        for name, values in (("mythos", ours), ("one-pass", once), ("untied", deep))
        for seed in range(3)
    ]
    plain = [arm("plain", 0, 29.0, injection="add")]
    (tmp_path / "depth-text.json").write_text(json.dumps({"arms": [*runs, *plain]}))
    (setting,) = told.settings(told.read(told.TEXT, tmp_path))
    assert [*setting.arms] == ["one-pass", "untied", "mythos", "plain"]
    closed = setting.gap_closed(setting.arms["mythos"])
    want = [(a - c) / (a - b) for a, b, c in zip(once, deep, ours, strict=True)]
    assert closed.values == pytest.approx(tuple(want))
    assert (closed.mean, closed.least, closed.most) == pytest.approx(
        (fmean(want), min(want), max(want))
    )
    over = setting.over_ours(setting.arms["plain"])
    assert over.values == pytest.approx((29.0 / ours[0] - 1,))
    made = told.tables(tmp_path)
    assert "| injection=add |" in made["depth-parts"]
    (row,) = [line for line in made["depth-designs"].splitlines() if line.startswith("| mythos ")]
    assert f"| {fmean(want):.0%} ({min(want):.0%} to {max(want):.0%}) |" in row
    assert "images/depth-text-parts.png" in made["depth-parts"]


def test_a_gap_too_small_to_divide_is_not_told(told: ModuleType) -> None:
    runs = [arm("one-pass", 0, 20.0), arm("untied", 0, 19.5), arm("mythos", 0, 18.0)]
    (setting,) = told.settings({"arms": runs})
    assert setting.gap_closed(setting.arms["mythos"]) is None
    assert setting.over_one_pass(setting.arms["mythos"]).mean == pytest.approx(-0.1)


def test_accuracy_is_told_over_chance_at_as_many_loops_as_the_difficulty(told: ModuleType) -> None:
    rows = [[random.random() for _ in (4, 8, 16, 64)] for _ in (8, 12, 16, 32)]
    cell = {
        "task": "deep-words",
        "design": "mythos",
        "seed": 0,
        "trained": {"difficulty": 8, "loops": 16},
        "map": {
            "name": "deep-words",
            "difficulties": [8, 12, 16, 32],
            "loops": [4, 8, 16, 64],
            "accuracy": rows,
            "n": 100,
        },
    }
    found = told.learners({"later": {"cells": [cell]}})["deep-words"]["mythos"]
    assert [found.as_many(d) for d in (8, 12, 16, 32, 128)] == [8, 16, 16, 64, 64]
    assert not found.tied  # its rows say how many factors there are
    assert {found.own_loops(d) for d in found.difficulties} == {64}
    assert replace(found, task="deep-p-hop").own_loops(12) == 16
    chance = 1 / 60  # of the elements of A5
    for d, row, column in ((8, 0, 1), (12, 1, 2), (32, 3, 3)):
        want = max(0.0, (rows[row][column] - chance) / (1 - chance))
        assert found.over_chance(d, found.as_many(d)).mean == pytest.approx(want)
