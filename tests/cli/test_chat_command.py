"""Every option arrives, and none costs more than the table of commands may."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli.main import app
from open_mythos.generate.params import SamplingParams


def test_every_option_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    from open_mythos.cli import chat

    noted: list[Any] = []
    monkeypatch.setattr(chat, "run", noted.append)
    words = (
        "chat m --loops 3 --exit kl:0.1 --system s --max-new-tokens 9 --temperature 0.5 --top-k 2 "
        "--top-p 0.9 --repetition-penalty 1.5 --stop a --stop b --continue --seed 4 --device cpu"
    )
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 0, result.output
    params = SamplingParams(
        temperature=0.5, top_k=2, top_p=0.9, repetition_penalty=1.5, max_tokens=9, stop=("a", "b")
    )
    assert noted == [chat.Asked(Path("m"), params, 3, "kl:0.1", "s", True, 4, "cpu")]


def test_without_options_it_is_as_the_help_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from open_mythos.cli import chat

    noted: list[Any] = []
    monkeypatch.setattr(chat, "run", noted.append)
    assert CliRunner().invoke(app, ["chat", "m"]).exit_code == 0
    params = SamplingParams(temperature=0.8, top_k=50, max_tokens=256)
    assert noted == [chat.Asked(Path("m"), params)]
