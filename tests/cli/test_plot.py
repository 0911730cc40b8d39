from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli.main import app
from open_mythos.cli.plot import labels


def call(*words: object) -> Any:
    return CliRunner().invoke(app, ["plot", *map(str, words)])


def test_one_run_gets_its_picture_into_its_folder(text_run: Path) -> None:
    result = call(text_run)
    assert result.exit_code == 0
    assert Path(result.stdout.strip()) == text_run / "curves.png"
    assert (text_run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_several_runs_share_one_where_it_is_wanted(
    text_run: Path, task_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "both.svg"
    assert call(text_run, task_run, "--out", out).exit_code == 0
    assert "<svg" in out.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--out", "x.gif"], "ends in none of .png"), ([], "metrics.jsonl")],
)
def test_mistakes_are_one_line(tmp_path: Path, text_run: Path, words: list[str], said: str) -> None:
    result = call(text_run if words else tmp_path / "nowhere", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_runs_are_called_by_their_folders_or_by_their_paths() -> None:
    assert labels([Path("runs/a"), Path("b/")]) == ["a", "b"]
    assert labels([Path("x/a"), Path("y/a"), Path("b")]) == ["x/a", "y/a", "b"]
