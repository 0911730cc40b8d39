import sys
import types
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli.main import app


@pytest.mark.parametrize("code", [0, 1])
def test_options_are_handed_on_and_the_exit_code_back(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    noted: list[dict[str, Any]] = []

    def run(**arguments: Any) -> int:
        noted.append(arguments)
        return code

    module: Any = types.ModuleType("open_mythos.cli.doctor")
    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    words = [
        "doctor",
        "m",
        "--data",
        "d.txt",
        "--loops",
        "3",
        "--json",
        "j.json",
        "--out",
        "o.html",
    ]
    assert CliRunner().invoke(app, words).exit_code == code
    assert CliRunner().invoke(app, ["doctor", "m", "--recipe", "task-sums"]).exit_code == code
    assert noted[0] == {
        "checkpoint": Path("m"),
        "data": Path("d.txt"),
        "recipe": None,
        "loops": 3,
        "json_file": Path("j.json"),
        "out": Path("o.html"),
        "task": None,
        "device": "auto",
    }
    assert noted[1]["recipe"] == "task-sums"
    assert noted[1]["data"] is noted[1]["loops"] is None
    assert CliRunner().invoke(app, ["doctor", "m", "--loops", "0"]).exit_code == 2
