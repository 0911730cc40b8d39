"""Hooks of the site's build: what mkdocs.yml cannot say; tables, mathematics and pages from files.

A page asks by a comment on a line of its own: `<!-- results: NAME -->` for a table or figure of
`website/results.py`, `<!-- file: PATH -->` for a file of the repository as a block of code.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from website.figures import FIGURES, svg
from website.mathematics import to_mathml
from website.notebook import notebook_files
from website.results import RESULTS, TABLES


ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"^<!-- (results|file): (\S+) -->$", re.M)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages that are made of files elsewhere: results as they are, the notebook, changes."""
    for path in sorted(RESULTS.glob("*.json")):
        files.append(File.generated(config, f"results/json/{path.name}", abs_src_path=str(path)))
    for name, draw in FIGURES.items():
        files.append(File.generated(config, f"results/figures/{name}.svg", content=svg(draw())))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "changes.md", content=changes))
    files.append(File.generated(config, "decisions/index.md", content=decisions()))
    for name, content in notebook_files(ROOT / "notebooks" / "looping.ipynb").items():
        files.append(File.generated(config, name, content=content))
    return files


def decisions() -> str:
    """A list of the decisions, by their headings, newest first."""
    lines = ["# Decisions", "", "Why things are as they are, newest first.", ""]
    for path in sorted((ROOT / "docs" / "decisions").glob("0*.md"), reverse=True):
        title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        lines.append(f"- [{title.replace('. ', ': ', 1)}]({path.name})")
    return "\n".join(lines) + "\n"


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Fill in what the page's marks ask for, and point at results where the site has them."""
    up = "../" * page.file.src_uri.count("/")
    markdown = markdown.replace(f"](../{up}benchmarks/results/", f"]({up}results/json/")
    return MARK.sub(lambda mark: _made(mark[1], mark[2], up), markdown)


def on_page_content(html: str, **_: object) -> str:
    """Draw the page's mathematics."""
    return to_mathml(html)


def _made(kind: str, name: str, up: str) -> str:
    if kind == "results":
        return TABLES[name]().replace("](json/", f"]({up}results/json/")
    text = (ROOT / name).read_text(encoding="utf-8").rstrip()
    return f"````{LANGUAGES[Path(name).suffix]}\n{text}\n````"
