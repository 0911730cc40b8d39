"""Mathematics: every equation of the pages becomes MathML."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from website.mathematics import to_mathml


ROOT = Path(__file__).resolve().parents[2]
PAGES = [p for p in sorted((ROOT / "docs").rglob("*.md")) if "$$" in p.read_text(encoding="utf-8")]


def test_inline_and_display() -> None:
    page = (
        r'<p>a <span class="arithmatex">\(x &lt; y_1\)</span></p>'
        r'<div class="arithmatex">\[\frac{1}{2}\]</div>'
    )
    made = to_mathml(page)
    assert "arithmatex" not in made
    assert made.count("<math") == 2
    assert "<mfrac>" in made
    assert "&#x0003C;" in made or "&lt;" in made  # the smaller-than sign stays one


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_equation_converts_whole(path: Path) -> None:
    found = re.findall(r"\$\$\n(.*?)\n\$\$", path.read_text(encoding="utf-8"), re.S)
    assert found
    for tex in found:
        made = to_mathml(f'<div class="arithmatex">\\[{tex}\\]</div>')
        root = ET.fromstring(made)
        text = "".join(root.itertext())
        assert "\\" not in text, (tex, text)  # a command that it does not know is left as it is
