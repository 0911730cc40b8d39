"""What is packed, and what is said of it, agrees with what is there."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import open_mythos


ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "open_mythos" / "py.typed").is_file()
    assert "Typing :: Typed" in PYPROJECT["project"]["classifiers"]


@pytest.mark.parametrize(
    "pattern", PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
)
def test_what_the_source_archive_takes_is_there(pattern: str) -> None:
    assert (ROOT / pattern.strip("/")).exists()


def test_the_citation_is_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (\S+)$", text, re.M).group(1) == open_mythos.__version__  # type: ignore[union-attr]
    assert "cff-version: 1.2.0" in text


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_links_of_the_pages_at_the_root_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target


def test_every_extra_that_an_error_recommends_brings_the_package_it_names() -> None:
    named = set()
    for path in (ROOT / "open_mythos").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "MissingExtraError"):
                continue
            package, extra = node.args[:2]
            if isinstance(package, ast.Constant) and isinstance(extra, ast.Constant):
                named.add((package.value, extra.value))
    assert len(named) > 5
    for package, extra in named:
        brought = {re.match(r"[\w-]+", line).group() for line in EXTRAS[extra]}  # type: ignore[union-attr]
        assert package in brought, (package, extra)


def test_requirements_ask_for_the_package_with_an_extra_that_it_has() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (wanted,) = (line for line in lines if line and not line.startswith("#"))
    matched = re.fullmatch(r"\.\[(\w+)\]", wanted)
    assert matched is not None
    assert matched.group(1) in EXTRAS
