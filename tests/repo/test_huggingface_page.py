"""What docs/huggingface.md shows, run from top to bottom as one program."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from open_mythos.cli.main import app


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "huggingface.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = re.findall(r"^    open-mythos ([\w-]+)(.*?)(?:#.*)?$", PAGE, flags=re.MULTILINE)


@pytest.mark.filterwarnings("ignore")  # transformers' advice, which changes with its versions
def test_the_page_is_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("transformers", "peft", "accelerate"):
        pytest.importorskip(package, reason=f"{package}, which the page shows")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in PYTHON:
        exec(compile(code, "huggingface.md", "exec"), names)  # noqa: S102 -- our own page
    assert len(PYTHON) == 4
    assert (tmp_path / "hub" / "modeling_open_mythos.py").is_file()


@pytest.mark.parametrize(("command", "words"), COMMANDS)
def test_commands_and_their_options_exist(command: str, words: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for option in re.findall(r"--[a-z-]+", words):
        assert option in shown.output
