"""The notebook as a page of the site: Markdown, with its pictures as files beside it."""

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter


def notebook_files(path: Path) -> dict[str, str | bytes]:
    """Pages and pictures of one notebook, by their place in the site; the page is `notebook.md`."""
    read = nbformat.read(path, as_version=4)
    text, resources = MarkdownExporter().from_notebook_node(read)
    text = re.sub(r"!\[[^\]]*\]\((\S+?)\)", r"![What the cell above draws](notebook/\1)", text)
    # Tables drawn as HTML and ANSI colours are not used; blank runs are what the exporter leaves.
    page = re.sub(r"\n{3,}", "\n\n", text)
    pictures = {f"notebook/{name}": data for name, data in resources["outputs"].items()}
    return {"notebook.md": page, **pictures}
