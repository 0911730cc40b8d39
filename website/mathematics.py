"""Mathematics: TeX of a page to MathML, which browsers draw without scripts or fonts."""

import html
import re

from latex2mathml.converter import convert


INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.S)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.S)


def to_mathml(page: str) -> str:
    """The HTML of a page with what `pymdownx.arithmatex` marked put into MathML."""
    page = BLOCK.sub(lambda m: _displayed(html.unescape(m[1])), page)
    return INLINE.sub(lambda m: convert(html.unescape(m[1])), page)


def _displayed(tex: str) -> str:
    """A line of its own, in a box that scrolls where the page is too narrow for it."""
    return f'<div class="equation">{convert(tex, display="block")}</div>'
