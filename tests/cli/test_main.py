"""The command table: quick to answer, thin, and polite about mistakes."""

import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos import __version__
from open_mythos.cli.main import app
from open_mythos.errors import CheckpointError


COMMANDS = ("demo", "train", "sweep", "plot", "inspect", "convert")


def call(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Every command's work replaced by a note of its arguments."""
    noted: list[tuple[str, dict[str, Any]]] = []

    def noting(command: str) -> Callable[..., None]:
        return lambda **arguments: noted.append((command, arguments))

    for command in COMMANDS:
        module: Any = types.ModuleType(f"open_mythos.cli.{command}")
        module.run = noting(command)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return noted


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['open-mythos', '--help']\n"
        "from open_mythos.cli.main import app\n"
        "try: app()\n"
        "except SystemExit as done: assert not done.code\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'matplotlib', 'transformers', 'tokenizers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for name in COMMANDS:
        assert f" {name} " in shown.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0
    assert f"open-mythos {name}" in result.output or name in result.output


def test_version_is_the_packages() -> None:
    result = call("--version")
    assert (result.exit_code, result.output) == (0, f"open-mythos {__version__}\n")


def test_python_dash_m_is_the_same_command() -> None:
    command = [sys.executable, "-m", "open_mythos", "--version"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    assert shown.stdout == f"open-mythos {__version__}\n"


@pytest.mark.parametrize(
    ("words", "name", "expected"),
    [
        (["demo"], "demo", {"out": Path("runs/demo"), "minutes": 5.0, "resume": True, "seed": 0}),
        (
            ["demo", "--fresh", "--minutes", "1", "--seed", "3", "--out", "o"],
            "demo",
            {"out": Path("o"), "minutes": 1.0, "resume": False, "seed": 3},
        ),
        (
            ["train", "tiny", "a=1", "b.c=-2", "--resume", "only"],
            "train",
            {
                "name": "tiny",
                "overrides": ["a=1", "b.c=-2"],
                "out": Path("runs/tiny"),
                "start": "resume",
                "config": None,
                "print_config": False,
            },
        ),
        (
            ["train", "tiny", "--out", "o", "--config", "c.yaml", "--print-config"],
            "train",
            {
                "name": "tiny",
                "overrides": [],
                "out": Path("o"),
                "start": "new",
                "config": Path("c.yaml"),
                "print_config": True,
            },
        ),
        (
            ["sweep", "m", "--loops", "1, 2,16", "--json"],
            "sweep",
            {
                "checkpoint": Path("m"),
                "loops": [1, 2, 16],
                "text": None,
                "batches": None,
                "task": None,
                "device": "auto",
                "as_json": True,
            },
        ),
        (
            ["inspect", "mythos_1b", "dim=64", "--context", "9"],
            "inspect",
            {
                "target": "mythos_1b",
                "overrides": ["dim=64"],
                "n_loops": None,
                "context": 9,
                "as_json": False,
            },
        ),
        (
            ["convert", "a.pt", "b", "--trusted"],
            "convert",
            {
                "source": Path("a.pt"),
                "destination": Path("b"),
                "config": None,
                "trusted": True,
                "family": None,
            },
        ),
    ],
)
def test_a_command_hands_its_options_on(
    calls: list[tuple[str, dict[str, Any]]], words: list[str], name: str, expected: dict[str, Any]
) -> None:
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert calls == [(name, expected)]


def test_training_afresh_must_be_asked_for_and_its_exit_code_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[str] = []

    def run(start: str, **arguments: object) -> int:
        starts.append(start)
        return 1 if start == "fresh" else 0

    module: Any = types.ModuleType("open_mythos.cli.train")
    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    ways = ([], ["--resume", "auto"], ["--resume", "only"], ["--fresh"])
    codes = [call("train", "tiny", *flags).exit_code for flags in ways]
    assert starts == ["new", "auto", "resume", "fresh"]
    assert codes == [0, 0, 0, 1]
    assert call("train", "tiny", "--resume", "auto", "--fresh").exit_code == 2
    assert len(starts) == 4


@pytest.mark.parametrize("loops", ["", "1,,2", "0", "1,x", "-1", "2.5"])
def test_a_bad_list_of_depths_is_refused(calls: list[Any], loops: str) -> None:
    result = call("sweep", "m", f"--loops={loops}")
    assert result.exit_code == 2
    assert not calls


def test_a_users_mistake_is_one_line_on_stderr_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(**arguments: object) -> None:
        raise CheckpointError("m is truncated:\n  take another copy")

    module: Any = types.ModuleType("open_mythos.cli.sweep")
    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    result = call("sweep", "m")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "open-mythos: m is truncated: take another copy\n"


def test_an_unknown_command_is_refused_with_a_suggestion() -> None:
    result = call("inspct")
    assert result.exit_code == 2
    assert "inspect" in result.stderr


def test_no_arguments_show_the_help() -> None:
    assert "sweep" in call().output
