"""Options reach the work."""

from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from typer.testing import CliRunner

import open_mythos.cli.laws as work
from open_mythos.cli.law_commands import laws
from open_mythos.cli.main import app
from open_mythos.laws.law import LAWS


def test_options_reach_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[work.Options] = []
    monkeypatch.setattr(work, "run", calls.append)
    text = "iso-depth a b.csv --judge hops_8 --resamples 9 --level 0.8 --seed 3 --json n.json"
    assert CliRunner().invoke(app, ["laws", *text.split(), "--out", "p.svg"]).exit_code == 0
    assert calls == [
        work.Options(
            law="iso-depth",
            sources=[Path("a"), Path("b.csv")],
            judge="hops_8",
            resamples=9,
            level=0.8,
            seed=3,
            json_file=Path("n.json"),
            out=Path("p.svg"),
        )
    ]


def test_every_law_has_its_word_and_no_other() -> None:
    assert get_args(get_type_hints(laws)["law"]) == tuple(LAWS)
    for words in (["parcae", "a"], ["test-time"], ["test-time", "a", "--resamples", "0"]):
        assert CliRunner().invoke(app, ["laws", *words]).exit_code == 2


def test_the_command_is_listed() -> None:
    assert " laws " in CliRunner().invoke(app, ["--help"]).output
