"""One self-contained HTML page: text, tables and pictures, nothing fetched."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches up to which a picture stays legible in one of two columns.
COLUMN = 8.0


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Its heading.
        paragraphs: Plain text, escaped when rendered.
        figures: Caption and figure, in order.
        table: Rows of cells, the first row the header; empty for none.
        samples: Label and text, shown as they are.
    """

    title: str
    paragraphs: Sequence[str] = ()
    figures: "Sequence[tuple[str, Figure]]" = ()
    table: Sequence[Sequence[str]] = ()
    samples: Sequence[tuple[str, str]] = field(default_factory=tuple)


def render_page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page as HTML."""
    template = Template(
        files("open_mythos.report").joinpath("assets/page.html").read_text(encoding="utf-8")
    )
    body = "\n".join(_section(section) for section in sections)
    return template.substitute(title=escape(title), lead=escape(lead), body=body)


def _section(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{escape(text)}</p>" for text in section.paragraphs]
    if section.figures:
        shown = "\n".join(_figure(caption, figure) for caption, figure in section.figures)
        parts.append(f'<div class="figures">{shown}</div>')
    if section.table:
        parts.append(_table(section.table))
    parts += [
        f"<h3>{escape(label)}</h3><pre>{escape(text)}</pre>" for label, text in section.samples
    ]
    return "\n".join([*parts, "</section>"])


def _figure(caption: str, figure: "Figure") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    wide = ' class="wide"' if figure.get_figwidth() > COLUMN else ""
    return (
        f'<figure{wide}><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:]
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
