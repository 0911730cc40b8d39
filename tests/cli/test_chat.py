"""The command from a pipe: answers on one stream, everything else on the other."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from open_mythos.cli.chat import CONTINUES, talk, typed
from open_mythos.cli.chat_session import Session
from open_mythos.cli.main import app
from open_mythos.cli.opening import open_checkpoint
from open_mythos.data.tokenizer import save_tokenizer
from open_mythos.generate.params import SamplingParams
from open_mythos.generate.text import stream_text


ROOT = Path(__file__).resolve().parents[2]


def chat(run: Path, given: str, *words: str) -> Any:
    words = ("chat", str(run), "--device", "cpu", "--max-new-tokens", "8", *words)
    result = CliRunner().invoke(app, words, input=given)
    assert result.exit_code == 0, result.output
    return result


def test_a_pipe_gets_answers_and_nothing_else(text_run: Path) -> None:
    found = chat(text_run, "KING:\n", "--temperature", "0", "--continue")
    opened = open_checkpoint(text_run)
    params = SamplingParams(temperature=0.0, top_k=50, max_tokens=8)
    pieces = list(stream_text(opened.model, opened.tokenizer, "KING:", params))
    assert found.stdout == "".join(piece.text for piece in pieces) + "\n"
    lines = found.stderr.splitlines()
    assert lines[0].startswith(f"{text_run.name}: ")
    assert lines[1] == CONTINUES
    assert f"{len(pieces)} tokens" in lines[2]
    assert "\x1b" not in found.output


def test_a_base_model_says_that_it_is_one(text_run: Path, tmp_path: Path) -> None:
    opened = open_checkpoint(text_run)
    opened.model.save_pretrained(tmp_path)
    tokenizer: Any = opened.tokenizer
    tokenizer.chat_template = None
    save_tokenizer(tokenizer, tmp_path)
    found = chat(tmp_path, "KING:\n\n", "--seed", "1")
    assert f"no chat template: {CONTINUES}" in found.stderr.splitlines()
    assert found.stderr.count("tokens/s") == 2


def test_orders_and_mistakes_leave_the_session_going(text_run: Path) -> None:
    lines = ["/loops 1", "/nonsense", "/loops auto", "hello", "/quit", "never said"]
    found = chat(text_run, "\n".join(lines), "--loops", "2", "--seed", "3")
    told = found.stderr.splitlines()
    assert "2 loops" in told[0]
    assert "no order /nonsense" in found.stderr
    assert sum("tokens/s" in line for line in told) == 1
    again = chat(text_run, "/loops 1\n/loops auto\nhello", "--loops", "2", "--seed", "3")
    assert again.stdout == found.stdout


def test_a_wrong_option_ends_it_in_one_line(text_run: Path) -> None:
    for words in (["--exit", "kk"], ["--continue", "--system", "x"], ["--temperature", "-1"]):
        result = CliRunner().invoke(app, ["chat", str(text_run), *words], input="")
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1


def test_lines_go_on_behind_a_backslash() -> None:
    from io import StringIO

    given = "one\ntwo \\\nthree\\\n\nfour\r\nfive\\\nsix\\"
    found = list(typed(StringIO(given), StringIO()))
    assert found == ["one", "two \nthree\n", "four", "five\nsix\n"]
    assert list(typed(StringIO("no end"), StringIO())) == ["no end"]
    assert list(typed(StringIO(""), StringIO())) == []


class Said:
    """A screen that only remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def show(self, pieces: Any, most: int) -> Any:
        self.notes.append(f"{sum(1 for _ in pieces)} pieces of {most}")


def test_an_interrupt_between_answers_ends_nothing(text_run: Path) -> None:
    opened, screen = open_checkpoint(text_run), Said()
    session = Session(opened.model, opened.tokenizer)
    whole = session.answer

    def answer(line: str) -> Any:
        if line == "stop":
            raise KeyboardInterrupt
        return whole(line)

    session.answer = answer  # type: ignore[method-assign, assignment]
    session.manner.params = SamplingParams(max_tokens=3, ignore_eos=True)
    talk(session, screen, iter(["stop", "hello", "/quit", "hello"]))
    assert screen.notes == ["(stopped)", "3 pieces of 2"]


@pytest.fixture
def terminal(text_run: Path, interruptible: None) -> Iterator[Any]:
    """A real terminal with the command in it: `(write, wait_for)`."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "open_mythos", "chat", str(text_run), "--device", "cpu",
               "--max-new-tokens", "2000"]  # fmt: skip
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen = bytearray()

    def wait_for(text: bytes, since: int = 0) -> int:
        end = time.monotonic() + 90
        while text not in seen[since:] and time.monotonic() < end:
            if select.select([ours], [], [], 0.2)[0]:
                seen.extend(os.read(ours, 4096))
        assert text in seen[since:], bytes(seen)
        return seen.index(text, since) + len(text)

    yield process, lambda line: os.write(ours, line), wait_for
    process.kill()
    process.wait()
    os.close(ours)


@pytest.mark.slow
def test_on_a_terminal_an_answer_is_stopped_and_the_session_goes_on(terminal: Any) -> None:
    process, write, wait_for = terminal
    at = wait_for(b"> ")
    write(b"hello\r")
    at = wait_for(b" tokens/s", at)
    process.send_signal(signal.SIGINT)
    at = wait_for(b"> ", at)
    write(b"/loops 1\r")
    at = wait_for(b"> ", wait_for(b"1 loop", at))
    process.send_signal(signal.SIGINT)
    at = wait_for(b"ends the session", at)
    write(b"/quit\r")
    assert process.wait(30) == 0
