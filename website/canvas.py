"""Canvas: a small SVG picture of boxes, arrows and words, legible on light and dark pages."""

from html import escape


INK, GREY, PALE = "#263238", "#78909c", "#eceff1"
# Okabe and Ito's palette, told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, PINK, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"
WIDTH = 720  # of every picture, so that words have one size on all pages


class Canvas:
    """Shapes in the order in which they are drawn, on a card of its own colour.

    Attributes:
        height: Of the picture, in pixels; its width is WIDTH.
    """

    def __init__(self, height: int, title: str) -> None:
        """Args: height in pixels, and what a reader who cannot see it is told."""
        self.height = height
        self._title = title
        self._parts: list[str] = []

    def text(
        self, x: float, y: float, words: str, *, size: int = 14, colour: str = INK,
        anchor: str = "middle", bold: bool = False,
    ) -> None:  # fmt: skip
        """Words whose base line is at y; `anchor` is start, middle or end."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" '
            f'text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )

    def rect(
        self, x: float, y: float, w: float, h: float, fill: str = PALE, line: str = GREY,
        dashed: bool = False,
    ) -> None:  # fmt: skip
        """A rounded rectangle."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="4" '
            f'fill="{fill}" stroke="{line}"{dash}/>'
        )

    def box(
        self, x: float, y: float, w: float, h: float, words: str, fill: str = PALE,
        colour: str = INK,
    ) -> None:  # fmt: skip
        """A rectangle with words in its middle, line under line."""
        self.rect(x, y, w, h, fill)
        lines = words.split("\n")
        for number, line in enumerate(lines):
            offset = (number - (len(lines) - 1) / 2) * 17 + 5
            self.text(x + w / 2, y + h / 2 + offset, line, colour=colour)

    def arrow(self, *points: tuple[float, float], colour: str = INK, dashed: bool = False) -> None:
        """A line along the points, with a head at the last."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dash} '
            f'marker-end="url(#head-{colour[1:]})"/>'
        )

    def line(self, *points: tuple[float, float], colour: str = GREY, dashed: bool = False) -> None:
        """A line along the points."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>'
        )

    def svg(self) -> str:
        """The picture as a file's text."""
        body = "\n".join(self._parts)
        colours = [c for c in (INK, GREY, BLUE, ORANGE, GREEN, PINK) if f"head-{c[1:]}" in body]
        heads = "".join(
            f'<marker id="head-{c[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{c}"/></marker>'
            for c in colours
        )
        size = f"{WIDTH} {self.height}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img" '
            f'width="{WIDTH}" height="{self.height}" '
            'font-family="system-ui, DejaVu Sans, sans-serif">\n'
            f"<title>{escape(self._title)}</title>\n<defs>{heads}</defs>\n"
            f'<rect width="{WIDTH}" height="{self.height}" rx="8" fill="#ffffff"/>\n'
            f"{body}\n</svg>\n"
        )
