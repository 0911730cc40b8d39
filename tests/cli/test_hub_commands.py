"""From words on the command line to an export."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli import export
from open_mythos.cli.main import app


def test_options_become_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(export, "run", lambda **given: seen.update(given))
    words = ["--loops", "3", "--name", "N", "--data", "D", "--licence", "mit", "--no-code"]
    assert CliRunner().invoke(app, ["export", "from", "to", *words]).exit_code == 0
    assert (seen["checkpoint"], seen["folder"]) == (Path("from"), Path("to"))
    assert (seen["n_loops"], seen["code"]) == (3, False)
    assert seen["form"] == "hf"
    assert seen["said"] == {"name": "N", "data": "D", "licence": "mit"}
    assert CliRunner().invoke(app, ["export", "from", "to", "--format", "pt2"]).exit_code == 0
    assert seen["form"] == "pt2"
