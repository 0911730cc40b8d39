"""What the README shows, run."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from open_mythos.cli.main import app


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = re.findall(
    r"^open-mythos ([\w-]+(?: (?:prepare|train)(?= ))?)(.*?)(?:#.*)?$", README, flags=re.MULTILINE
)


def test_there_is_something_to_run() -> None:
    assert PYTHON
    assert COMMANDS


@pytest.mark.parametrize("code", PYTHON)
def test_python_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 -- our own README
    assert list(names["tokens"].shape) == [2, 24]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("command", "words"), COMMANDS)
def test_commands_and_their_options_exist(command: str, words: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for option in re.findall(r"--[a-z-]+", words):
        assert option in shown.output


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
