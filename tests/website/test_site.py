"""The site: what its navigation and its API pages name is there; and, slowly, the whole build."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import open_mythos
from website.check import faults


ROOT = Path(__file__).resolve().parents[2]
API = sorted((ROOT / "docs" / "api").glob("*.md"))
NAMES = [name for page in API for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.M)]
GENERATED = {"notebook.md", "changes.md", "decisions/index.md"}  # by website/hooks.py


class Loader(yaml.SafeLoader):
    """Reads what mkdocs allows itself beyond plain YAML."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def leaves(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [leaf for part in parts for leaf in leaves(part)]  # type: ignore[attr-defined]


def test_the_navigation_has_every_page_once() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), Loader)
    named = leaves(settings["nav"])
    present = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    present = {name for name in present if not name.startswith("decisions/")} | GENERATED
    assert len(named) == len(set(named))
    assert set(named) == present


@pytest.mark.parametrize("name", NAMES)
def test_what_the_api_pages_name_is_defined_there(name: str) -> None:
    parts = name.split(".")
    if ROOT.joinpath(*parts).with_suffix(".py").is_file():
        return
    module = ROOT.joinpath(*parts[:-1]).with_suffix(".py")
    tree = ast.parse(module.read_text(encoding="utf-8"))
    defined = {n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    assert parts[-1] in defined


def test_the_api_has_every_public_name_of_the_package() -> None:
    homes = {f"open_mythos.{home}": name for name, home in open_mythos._HOME.items()}
    assert homes
    for name, home in open_mythos._HOME.items():
        module = f"open_mythos.{home}"
        assert module in NAMES or f"{module}.{name}" in NAMES, name


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_builds_without_a_warning_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings", "nbconvert", "matplotlib"):
        pytest.importorskip(package, reason=f"{package}, of the extra [docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(faults(tmp_path)) == []
    for name in ("index", "faq", "concepts/kv", "results/text", "api/model", "notebook"):
        page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert "<!-- results:" not in page
    assert "21.48" in (tmp_path / "results" / "text.html").read_text(encoding="utf-8")
