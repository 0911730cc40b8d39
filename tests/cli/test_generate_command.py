"""The options reach the work under the names that the library knows."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli import generate
from open_mythos.cli.generate import Asked
from open_mythos.cli.main import app
from open_mythos.generate.params import SamplingParams
from open_mythos.generate.speculate import Draft


def asked(monkeypatch: pytest.MonkeyPatch, *words: str) -> Asked:
    noted: list[Any] = []
    monkeypatch.setattr(generate, "run", noted.append)
    result = CliRunner().invoke(app, ["generate", "m", *words])
    assert result.exit_code == 0, result.output
    (one,) = noted
    assert isinstance(one, Asked)
    return one


def test_nothing_said_is_a_plain_draw_of_seed_0(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SamplingParams(top_k=50, seed=0)
    assert asked(monkeypatch) == Asked(Path("m"), "", plain)


def test_every_option_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    words = (
        "--prompt p --loops 3 --max-new-tokens 9 --temperature 0.5 --top-k 4 --top-p 0.9 "
        "--min-p 0.1 --repetition-penalty 1.5 --presence-penalty 0.25 --frequency-penalty -1 "
        "--stop a --stop b --regex r --json-schema s --seed 7 --logprobs --exit kl:1 "
        "--draft-loops 2 --draft-tokens 6 --device cpu --quantize int8"
    )
    params = SamplingParams(
        0.5, 4, 0.9, 0.1, 1.5, 0.25, -1.0, seed=7, max_tokens=9, stop=("a", "b"), logprobs=0
    )
    want = Asked(
        Path("m"), "p", params, 3, "kl:1", Draft(2, 6), regex="r", json_schema=Path("s"),
        device="cpu", quantised="int8",
    )  # fmt: skip
    assert asked(monkeypatch, *words.split()) == want
