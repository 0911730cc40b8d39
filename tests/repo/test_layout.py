"""Taste made executable: the shape of the repository, read from its files."""

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePosixPath

import pytest

from open_mythos.config.mythos import MythosConfig


ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "open_mythos"
FACES = ("main.py", "variants.py", "tokenizer.py", "moda/__init__.py")
UNTESTED = ("__init__.py", "__main__.py", *FACES)  # at the root; tests/faces is about them
GRAB_BAGS = {"utils", "util", "common", "helpers", "helper", "misc", "tools", "shared", "base"}

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in MODULES if path.parent != Path()})


def source(path: Path) -> str:
    return (PACKAGE / path).read_text(encoding="utf-8")


@cache
def tree_of(path: Path) -> ast.Module:
    """A module of the package, parsed once for all tests."""
    return ast.parse(source(path))


def tracked() -> list[Path]:
    """Files that git holds or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_a_file_fits_in_one_sitting() -> None:
    lines = {str(path): len(source(path).splitlines()) for path in MODULES}
    assert not {path: count for path, count in lines.items() if count > 400}


def test_a_module_is_named_by_a_noun_not_by_a_drawer() -> None:
    assert not [str(p) for p in MODULES if {p.stem, *p.parts[:-1]} & GRAB_BAGS]


def test_every_module_has_its_test_file() -> None:
    inits = ("__init__.py", "__main__.py")
    tested = (p for p in MODULES if p.name not in inits and str(p) not in UNTESTED)
    mirrors = (Path("tests") / path.parent / f"test_{path.name}" for path in tested)
    assert not [f"{mirror} is missing" for mirror in mirrors if not (ROOT / mirror).is_file()]


@pytest.mark.parametrize("name", FACES)
def test_a_face_holds_a_docstring_and_renames_to_the_same_name(name: str) -> None:
    tree = tree_of(Path(name))
    assert ast.get_docstring(tree)
    for node in tree.body[1:]:
        assert isinstance(node, ast.ImportFrom), ast.unparse(node)
        assert all(alias.asname == alias.name for alias in node.names), ast.unparse(node)


def test_a_folders_init_is_its_charter_alone() -> None:
    for folder in FOLDERS:
        if f"{folder}/__init__.py" not in FACES:
            tree = tree_of(folder / "__init__.py")
            assert ast.get_docstring(tree), folder
            assert len(tree.body) == 1, folder


# -- imports --------------------------------------------------------------------------------------


def imports(path: Path) -> Iterator[str]:
    """Every open_mythos module that a file imports, wherever in the file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "open_mythos")


def test_no_two_folders_import_each_other() -> None:
    arrows = {
        (path.parts[0], name.split(".")[1])
        for path in MODULES
        if path.parent != Path()
        for name in imports(path)
        if "." in name
    }
    both = {(a, b) for a, b in arrows if a < b and (b, a) in arrows}
    assert not both


def test_nothing_inside_imports_a_face() -> None:
    stems = (name.removesuffix(".py").removesuffix("/__init__") for name in FACES)
    faces = {f"open_mythos.{stem}" for stem in stems}
    guilty = {str(p): found for p in MODULES if (found := faces & set(imports(p)))}
    assert not guilty


OPTIONAL = {
    "datasets", "flash_attn", "lm_eval", "matplotlib", "onnx", "onnxruntime", "pyarrow", "ray",
    "scipy", "tensorboard", "tiktoken", "torchao", "transformers", "vllm", "wandb", "zstandard",
}  # fmt: skip


def test_optional_packages_are_imported_where_their_absence_is_explained() -> None:
    """At the top of a file only inside `try`: without the package there is a traceback else."""
    guilty = {}
    for path in MODULES:
        if path.parts[0] == "hf" and path.name != "auto.py":  # hf/auto.py, its way in, explains
            continue
        found = set()
        for node in tree_of(path).body:
            if isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
        if found & OPTIONAL:
            guilty[str(path)] = found & OPTIONAL
    assert not guilty


# -- words ----------------------------------------------------------------------------------------


def docstring_lines(path: Path) -> int:
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    total = 0
    for node in ast.walk(tree_of(path)):
        if isinstance(node, holders) and ast.get_docstring(node) is not None:
            first = node.body[0]
            total += (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def test_docstrings_are_a_tenth_to_a_quarter_of_the_package() -> None:
    lines = sum(len(source(path).splitlines()) for path in MODULES)
    share = sum(docstring_lines(path) for path in MODULES) / lines
    assert 0.08 <= share <= 0.25


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_glossary_has_every_config_field() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    missing = [f.name for f in fields(MythosConfig) if f"`{f.name}`" not in glossary]
    assert not missing


def test_the_map_lists_every_package_file_and_no_ghost() -> None:
    text = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([\w./-]+\.py)`", text))
    present = {path.as_posix() for path in MODULES if path.name != "__init__.py"}
    assert not present - listed, "docs/map.md lacks these (as `folder/file.py`)"
    ghosts = {name for name in listed - present if not (ROOT / name).is_file()}
    assert not {g for g in ghosts if not (PACKAGE / g).is_file()}


def test_headings_of_the_changelog_are_versions_from_new_to_old() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.findall(r"^## \[(\d+)\.(\d+)\.(\d+)\] - (?:unreleased|\d{4}-\d\d-\d\d)$", text, re.M)
    versions = [tuple(int(part) for part in version) for version in found]
    assert versions
    assert all(newer > older for newer, older in pairwise(versions))


# -- what must not be in any file -----------------------------------------------------------------

# Built from pieces, so that this file does not hold what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w./~-])/(?:wo" + r"rk|ro" + r"ot|tm" + r"p|ho" + r"me)/\w")
REGISTRY = re.compile(
    "|".join(
        re.escape(".".join(parts))
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("download", "pytorch", "org"),
            ("npmjs", "org"),
            ("deb", "debian", "org"),
        )
    )
)


def test_no_tracked_file_names_a_machine_path_or_a_package_registry() -> None:
    guilty = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or an archive
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line) or REGISTRY.search(line):
                guilty.append(f"{PurePosixPath(path.relative_to(ROOT))}:{number}: {line.strip()}")
    assert not guilty


def test_git_ignores_no_file_of_the_package() -> None:
    command = ["git", "check-ignore", "--no-index", *(str(PACKAGE / path) for path in MODULES)]
    ignored = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert ignored.stdout == ""
