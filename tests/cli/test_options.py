"""The shared options are worded once: commands show the same words for them."""

import pytest
from typer.testing import CliRunner

from open_mythos.cli.main import app


@pytest.mark.parametrize("command", ["sweep", "generate", "doctor"])
def test_commands_that_take_a_model_say_so_alike(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert "Folder with a trained model." in shown
    assert "auto (the accelerator if there is one)" in shown


@pytest.mark.parametrize("command", ["doctor", "calibrate"])
def test_commands_that_judge_a_model_say_alike_on_what_and_where_to(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert "Text file; default: what the run held out." in shown
    assert "File for all numbers." in shown
