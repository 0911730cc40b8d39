"""What the pages show, run: Python block after block as one program per page, commands as parsed.

A block may say on the line before it why it is not run with the others:
`<!-- slow: why -->` puts it (with all before it on its page) among the slow tests,
`<!-- not run: why -->` has it compiled alone.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from open_mythos.cli.main import app
from open_mythos.config.overrides import configure
from open_mythos.train.presets import RECIPES, recipe


ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
PAGES = [*PAGES, "skills/open-mythos/SKILL.md", "README.md"]
# Tests of their own run these; and the log tells what was called then, by the names of then.
ELSEWHERE = {"docs/huggingface.md", "README.md"}
HISTORY = {"docs/log.md"}
MARK = r"(?:<!-- (slow|not run): (.*?) -->\n)?"
BLOCK = re.compile(MARK + r"```(python|console)\n(.*?)```", re.S)
# Fenced lines begin with the command, indented ones four blanks later; `\` joins lines.
COMMAND = re.compile(r"^(?: {4})?(?:torchrun .*?-m )?open[-_]mythos ((?:.*\\\n)*.*)$", re.M)
CLI = typer.main.get_command(app)


@dataclass(frozen=True)
class Block:
    """One block of a page."""

    mark: str
    reason: str
    language: str
    code: str


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str, language: str) -> list[Block]:
    found = [Block(*(part or "" for part in m.groups())) for m in BLOCK.finditer(text_of(page))]
    return [block for block in found if block.language == language]


PROGRAMS = [page for page in PAGES if page not in ELSEWHERE and blocks_of(page, "python")]


def run(page: str, *, slow: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "snippet"}
    for number, block in enumerate(blocks_of(page, "python"), 1):
        code = compile(block.code, f"{page}, block {number}", "exec")
        if block.mark != "not run" and (slow or block.mark != "slow"):
            exec(code, names)  # noqa: S102 -- our own page


@pytest.mark.parametrize("page", PROGRAMS)
def test_the_blocks_of_a_page_run_in_order(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(page, slow=False, folder=tmp_path, monkeypatch=monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_blocks_of_start_run_in_order_with_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [block.code for block in blocks_of("docs/start.md", "console") if block.mark == "slow"]
    assert len(lines) == 3
    for words in commands("\n".join(lines)):
        shown = CliRunner().invoke(app, words)
        assert shown.exit_code == 0, (words, shown.output)
    assert (tmp_path / "runs" / "pointer" / "recipe.yaml").is_file()


def test_whatever_is_left_out_says_why_and_every_fence_is_known() -> None:
    for page in PAGES:
        text = text_of(page)
        for mark, reason in re.findall(r"<!-- (slow|not run):(.*?)-->", text):
            assert len(reason.strip()) > 5, (page, mark)
        # An indented line is no way around: what looks like Python there is not run by anybody.
        assert not re.findall(
            r"^ {4}(?:import \w+|from \w[\w.]* import .*)$", outside(text), re.M
        ), page
        assert set(re.findall(r"^```(\S+)$", text, re.M)) <= {"python", "console", "text"}, page


def outside(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


# -- commands -------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a text, comments left out."""
    for line in COMMAND.findall(text):
        yield shlex.split(re.sub(r"\\\n", " ", line), comments=True)


SHOWN = sorted(
    {tuple(w) for page in PAGES if page not in HISTORY for w in commands(text_of(page)) if w}
)


def split(words: tuple[str, ...]) -> tuple[click.Command, list[str]]:
    """The command that words call, and what it is given."""
    command, rest = CLI, list(words)
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        known = command.commands  # type: ignore[union-attr]
        assert rest, words
        assert rest[0] in known, f"there is no open-mythos {' '.join(words)}"
        command = known[rest.pop(0)]
    return command, rest


def test_there_are_commands_of_every_kind() -> None:
    assert len(SHOWN) > 60
    assert {"train", "sweep", "data", "laws", "serve"} <= {words[0] for words in SHOWN}


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_commands_and_their_options_exist(words: tuple[str, ...]) -> None:
    if words[0].startswith("-"):
        return
    command, rest = split(words)
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    for word in rest:
        found = re.match(r"\[?(--[a-z][a-z-]*)", word)
        assert found is None or found.group(1) in {*known, "--help"}, word


TRAINED = [w for w in SHOWN if w[0] == "train" and w[1:] and w[1] in RECIPES]


@pytest.mark.parametrize("words", TRAINED, ids=" ".join)
def test_settings_of_recipes_exist(words: tuple[str, ...]) -> None:
    settings = [word for word in words[2:] if re.match(r"[a-z_.]+=", word)]
    configure(recipe(words[1]), None, settings)


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
