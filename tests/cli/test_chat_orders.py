"""Orders against a session: what they change, and what they refuse without changing anything."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from open_mythos.checkpoint.exit_file import StoredExit
from open_mythos.cli.chat_orders import ORDERS, QuitOrder, is_order, obey, spoken
from open_mythos.cli.chat_session import Session
from open_mythos.config.mythos import MythosConfig
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.errors import ConfigError, InputError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.registry import exit_named


@pytest.fixture
def build(tiny_config: Callable[..., MythosConfig]) -> Any:
    def make(chats: bool = True, **changes: Any) -> Session:
        sizes = {"vocab_size": 257, "readout": "last", "max_loop_iters": 5, **changes}
        tokenizer = ByteTokenizer() if chats else ByteTokenizer(chat_template=None)
        return Session(OpenMythos(tiny_config(**sizes)).eval(), tokenizer)

    return make


def test_two_slashes_are_a_message() -> None:
    lines = ["/help", "//help", "help", "", "/", "a /b"]
    assert [is_order(line) for line in lines] == [True, False, False, False, True, False]
    assert [spoken(line) for line in lines[1:4]] == ["/help", "help", ""]


def test_help_names_every_order(build: Any) -> None:
    shown = obey(build(), "/help").splitlines()
    assert [line.split()[0] for line in shown[: len(ORDERS)]] == [f"/{name}" for name in ORDERS]


def test_loops_and_exits(build: Any) -> None:
    session = build()
    manner = session.manner
    assert obey(session, "/loops 2") == "2 loops"
    assert obey(session, "/loops") == "2 loops"
    assert (manner.n_loops, manner.exit) == (2, None)
    assert obey(session, "/exit kl:0.5") == "at most 2 loops, exit kl:0.5"
    assert (manner.n_loops, manner.exit) == (2, "kl:0.5")
    assert obey(session, "/exit off") == "2 loops"
    obey(session, "/exit kl")
    assert obey(session, "/loops all") == "5 loops"
    assert (manner.n_loops, manner.exit) == (None, None)


def test_auto_is_the_models_own_exit(build: Any) -> None:
    session = build()
    for line in ("/loops auto", "/exit calibrated"):
        with pytest.raises(InputError, match="open-mythos calibrate"):
            obey(session, line)
    session.model.calibrated = StoredExit(exit_named("fixed:2"), 4, 0.01, "loss")
    for line in ("/loops auto", "/exit calibrated"):
        obey(session, "/loops 1")
        assert obey(session, line) == "at most 4 loops, exit calibrated"
        assert (session.manner.n_loops, session.deepest) == (None, 4)
    assert {piece.loops for piece in session.answer("a")} == {2}
    halting = build(readout="act")
    obey(halting, "/loops 2")
    assert "own halting" in obey(halting, "/loops auto")
    assert halting.manner.n_loops is None


def test_temperature_tokens_and_system(build: Any) -> None:
    session = build()
    assert obey(session, "/temperature 0.25") == "temperature 0.25"
    assert obey(session, "/temperature") == "temperature 0.25"
    assert obey(session, "/tokens 7") == "at most 7 tokens an answer"
    params = session.manner.params
    assert params == replace(params, temperature=0.25, max_tokens=7)
    assert obey(session, "/system") == "no system message"
    assert obey(session, "/system be  brief ") == "system: be  brief"
    assert session.system == "be  brief"
    assert obey(session, "/system off") == "no system message"


def test_saving_and_forgetting(build: Any, tmp_path: Path) -> None:
    session = build()
    list(session.answer("a"))
    path = tmp_path / "talk of today.jsonl"
    assert obey(session, f"/save {path}").startswith("2 turns")
    assert path.is_file()
    obey(session, "/reset")
    assert session.turns == []


def test_the_end(build: Any) -> None:
    with pytest.raises(QuitOrder):
        obey(build(), "/quit")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/lops 2", "did you mean 'loops'"),
        ("/", "no order /"),
        ("/loops 0", "at least 1"),
        ("/loops many", "whole number"),
        ("/loops ²", "whole number"),
        ("/tokens -1", "whole number"),
        ("/temperature hot", "give a number"),
        ("/temperature -1", "temperature is -1.0"),
        ("/temperature nan", "temperature is nan"),
        ("/exit kk:1", "no exit 'kk'"),
        ("/exit kl:x", "no number"),
        ("/save", "needs a file"),
    ],
)
def test_mistakes_change_nothing(build: Any, line: str, words: str) -> None:
    session = build()
    before = replace(session.manner)
    with pytest.raises((InputError, ConfigError), match=words):
        obey(session, line)
    assert session.manner == before


def test_a_text_has_no_system_message(build: Any) -> None:
    with pytest.raises(InputError, match="continues text"):
        obey(build(chats=False), "/system be brief")
