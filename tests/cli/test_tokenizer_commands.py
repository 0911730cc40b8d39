"""Options reach the work, and showing them loads nothing heavy."""

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli.main import app


@pytest.mark.parametrize(
    ("words", "call", "expected"),
    [
        (
            ["train", "a", "b", "--out", "o"],
            "run_train",
            {
                "sources": ["a", "b"],
                "out": Path("o"),
                "vocab_size": 16384,
                "field": "text",
                "limit_mb": 0.0,
            },
        ),
        (["show", "byte"], "run_show", {"name": "byte", "text": None, "as_json": False}),
        (["show", "m", "To", "--json"], "run_show", {"name": "m", "text": "To", "as_json": True}),
    ],
)
def test_a_command_hands_its_options_on(
    monkeypatch: pytest.MonkeyPatch, words: list[str], call: str, expected: dict[str, Any]
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    module: Any = types.ModuleType("open_mythos.cli.tokenizer")
    for name in ("run_train", "run_show"):
        setattr(module, name, lambda at=name, **arguments: calls.append((at, arguments)))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    result = CliRunner().invoke(app, ["tokenizer", *words])
    assert result.exit_code == 0, result.output
    assert calls == [(call, expected)]


@pytest.mark.parametrize("words", [["train"], ["train", "a"], ["show"], ["shw", "byte"]])
def test_what_is_missing_or_unknown_is_refused(words: list[str]) -> None:
    assert CliRunner().invoke(app, ["tokenizer", *words]).exit_code == 2


def test_the_table_alone_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "import open_mythos.cli.tokenizer_commands\n"
        "heavy = {'torch', 'numpy', 'tokenizers', 'tiktoken', 'jinja2'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
