"""The options reach the work, and without the packages there is a word on how to get them."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli import serve_command
from open_mythos.cli.main import app


def test_every_option_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    from open_mythos.cli import serve

    noted: list[Any] = []
    monkeypatch.setattr(serve, "run", lambda *told: noted.append(told))
    words = "serve m engine.rows=3 --host ::1 --port 9 --name n --keys k --public --device cpu"
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 0, result.output
    told = ["serve.host=::1", "serve.port=9", "serve.public=true", "engine.rows=3"]
    assert noted == [(Path("m"), "n", Path("k"), "cpu", told)]


def test_replicas_are_settings_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    from open_mythos.cli import serve

    noted: list[Any] = []
    monkeypatch.setattr(serve, "run", lambda *told: noted.append(told[-1]))
    monkeypatch.setattr(serve_command, "find_spec", lambda name: 1)
    words = ["serve", "m", "replicas.gpus=0.5", "--replicas", "3", "--ray-address", "auto"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert noted[0][3:] == ["replicas.count=3", "replicas.address=auto", "replicas.gpus=0.5"]
    known = {"ray"}
    monkeypatch.setattr(serve_command, "find_spec", lambda name: None if name in known else 1)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "open-mythos[ray]" in result.output
    assert CliRunner().invoke(app, ["serve", "m"]).exit_code == 0


@pytest.mark.parametrize("missing", sorted(serve_command.NEEDED))
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(serve_command, "find_spec", lambda name: None if name == missing else 1)
    result = CliRunner().invoke(app, ["serve", "m"])
    assert result.exit_code == 2
    assert "open-mythos[serve]" in result.output
    assert serve_command.NEEDED[missing] in result.output
