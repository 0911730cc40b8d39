"""What is installed, as the metadata asks for it, and what is said of it."""

import importlib.metadata
import io
import json
import platform
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from open_mythos.cli import installation
from open_mythos.cli.installation import Installation, Requirement, satisfies, show, sorted_out
from open_mythos.cli.main import app


ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OTHER = "Windows" if platform.system() == "Linux" else "Linux"


@pytest.mark.parametrize(
    ("version", "wanted", "met"),
    [
        ("2.13.0+cpu", ">=2.11", True),
        ("2.9.1", ">=2.11", False),
        ("3.1.6", ">=3.1.6", True),
        ("3.1", ">=3.1.0", True),
        ("0.2.1", "==0.2.1", True),
        ("0.2.10", "==0.2.1", False),
        ("5.2", ">=5.0,<6", True),
        ("6.0.1", ">=5.0,<6", False),
        ("1.0", ">1.0", False),
        ("1.0", "<=1.0", True),
        ("0.0.1", "", True),
    ],
)
def test_versions(version: str, wanted: str, met: bool) -> None:
    assert satisfies(version, wanted) is met


def test_lines_of_metadata_are_sorted_by_extra() -> None:
    core, extras = sorted_out(
        [
            "pytest>=1",
            "no-such-package-here (>=2)",
            'pytest[toml]>=999; extra == "late"',
            f"absent; platform_system == '{OTHER}' and extra == 'late'",
            f"present-nowhere; platform_system == '{platform.system()}' and extra == 'late'",
        ]
    )
    version = importlib.metadata.version("pytest")
    assert core == [
        Requirement("pytest", ">=1", version),
        Requirement("no-such-package-here", ">=2", None),
    ]
    assert [r.met for r in core] == [True, False]
    assert extras == {
        "late": [
            Requirement("pytest", ">=999", version),
            Requirement("present-nowhere", "", None),
        ]
    }
    assert str(extras["late"][0]) == f"pytest>=999 ({version})"  # there, but too old


def test_what_the_project_asks_for_is_understood_and_met_here() -> None:
    core, _ = sorted_out(PROJECT["dependencies"])
    assert [r.name for r in core if r.name == "torch"]
    assert all(r.met for r in core), [str(r) for r in core if not r.met]
    for lines in PROJECT["optional-dependencies"].values():
        for requirement in sorted_out(lines)[0]:
            assert isinstance(requirement.met, bool)


def invented() -> Installation:
    asked = [Requirement("torch", ">=2.11", "2.13"), Requirement("numpy", ">=2", None)]
    return Installation("0", "3", "here", asked, {"hf": [Requirement("x", "", None)]}, None)


def test_what_is_missing_is_named_with_the_way_to_install_it() -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    show(invented(), console)
    text = console.export_text()
    for words in ("torch 2.13", "numpy>=2 (-)", 'pip install "open-mythos[hf]"', "is missing"):
        assert words in text
    assert not invented().whole


def test_the_command_answers_for_this_machine(tmp_path: Path) -> None:
    told = CliRunner().invoke(
        app, ["doctor", "--env", "--json", str(tmp_path / "env.json")], env={"COLUMNS": "140"}
    )
    assert told.exit_code == 0
    for words in ("Python", "torch", "generation"):
        assert words in told.output
    document = json.loads((tmp_path / "env.json").read_text(encoding="utf-8"))
    assert document["whole"] is True
    assert document["backends"]["versions"]["torch"]


def test_a_checkout_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "PACKAGE", "open-mythos-that-nobody-installed")
    monkeypatch.setattr(installation, "installed", lambda _: None)  # not even torch
    found = installation.look()
    assert found.core is None
    assert found.backends is None
    assert found.whole
    console = Console(record=True, width=200, file=io.StringIO())
    show(found, console)
    assert "checkout" in console.export_text()


def test_no_model_and_no_env_is_a_mistake_in_one_line() -> None:
    command = [sys.executable, "-m", "open_mythos", "doctor"]
    told = subprocess.run(command, check=False, capture_output=True, text=True)
    assert told.returncode == 2
    assert "--env" in told.stderr
    assert "Traceback" not in told.stderr
