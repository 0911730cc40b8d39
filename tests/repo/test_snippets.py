"""What the pages show, run: Python block after block as one program per page, commands by name."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from open_mythos.cli.main import app


ROOT = Path(__file__).resolve().parents[2]
PAGES = ["docs/moda.md", "skills/open-mythos/SKILL.md"]
COMMAND = re.compile(r"^open-mythos ([\w-]+)(.*?)(?:#.*)?$", re.M)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run_in_order(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", text_of(page), re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "snippet"}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)  # noqa: S102 -- our own page


@pytest.mark.parametrize(
    ("command", "words"),
    [found for page in PAGES for found in COMMAND.findall(text_of(page))],
)
def test_commands_and_their_options_exist(command: str, words: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for option in re.findall(r"--[a-z-]+", words):
        assert option in shown.output


def test_the_guide_for_assistants_says_what_it_is_and_names_files_that_are_there() -> None:
    text = text_of("skills/open-mythos/SKILL.md")
    head = re.match(r"---\nname: open-mythos\ndescription: (.+)\n---\n", text)
    assert head is not None
    assert len(head.group(1)) <= 1024  # what readers of such files allow
    modules = set(re.findall(r"`(open_mythos(?:\.\w+)+)", text))
    for dotted in modules:
        module = ROOT.joinpath(*dotted.split("."))
        holder = module.parent.with_suffix(".py")
        found = (
            module.is_dir()
            or module.with_suffix(".py").is_file()
            or (holder.is_file() and f"def {module.name}(" in holder.read_text(encoding="utf-8"))
        )
        assert found, dotted
