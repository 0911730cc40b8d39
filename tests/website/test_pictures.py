"""Pictures: what the committed ones show is what the library computes."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from open_mythos import loop_index_embedding
from open_mythos.nn.loop.halting import HaltingLedger
from website.pictures import HALTING, PICTURES, THRESHOLD, paid


ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "images" / "concepts"


@pytest.mark.parametrize("name", PICTURES)
def test_the_committed_picture_is_the_one_drawn(name: str) -> None:
    drawn = PICTURES[name]().svg()
    assert (FOLDER / f"{name}.svg").read_text(encoding="utf-8") == drawn, (
        "python -m website.pictures docs/images/concepts"
    )
    ET.fromstring(drawn)  # well-formed
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")


def test_every_picture_is_on_a_page_and_no_other_is_committed() -> None:
    shown = {
        name
        for page in (ROOT / "docs").rglob("*.md")
        for name in re.findall(r"images/concepts/(\w+)\.svg", page.read_text(encoding="utf-8"))
    }
    assert shown == set(PICTURES) == {path.stem for path in FOLDER.iterdir()}


@pytest.mark.parametrize("probabilities", [HALTING, (0.2, 0.1), (1.0, 0.5), (0.5, 0.495, 0.3)])
def test_weights_are_those_of_the_ledger(probabilities: tuple[float, ...]) -> None:
    h = torch.zeros(1, 1, 4)
    ledger = HaltingLedger.open(h, THRESHOLD)
    weights = []
    for t, p in enumerate(probabilities):
        ledger, weight = ledger.spend(h, torch.full((1, 1), p), last=t == len(probabilities) - 1)
        weights.append(float(weight))
    assert paid(probabilities) == pytest.approx(weights, abs=1e-6)


def test_the_colours_of_the_loop_index_have_its_signs() -> None:
    cells = re.findall(r'width="30" height="24" rx="4" fill="(#\w+)"', PICTURES["adapters"]().svg())
    assert len(cells) == 48
    for number, colour in enumerate(cells):
        t, i = divmod(number, 8)
        value = float(loop_index_embedding(torch.zeros(1, 1, 8), t, 8)[0, 0, i])
        if abs(value) > 0.05:
            assert colour.startswith("#ff") == (value > 0), (t, i)
