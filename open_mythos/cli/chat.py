"""`open-mythos chat`: talk with a model in a terminal, and see how deep it thinks."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch
from rich.console import Console

from open_mythos.cli.chat_orders import QuitOrder, is_order, obey, spoken
from open_mythos.cli.chat_screen import LiveScreen, PlainScreen, Screen
from open_mythos.cli.chat_session import Manner, Session
from open_mythos.cli.opening import open_checkpoint
from open_mythos.errors import MythosError
from open_mythos.generate.params import SamplingParams


PROMPT = "> "
CONTINUES = (
    "the model continues text: what you type goes on behind it; an empty line lets it write on, "
    "/reset starts anew."
)


@dataclass(frozen=True)
class Asked:
    """What the command is told.

    Attributes:
        checkpoint: Folder with a trained model.
        params: How answers are written.
        n_loops: Loops per token; None is the model's own number.
        exit: Where positions leave the loop early.
        system: What the model is told before the first turn; "" for nothing.
        as_text: Whether text is continued even where there is a chat template.
        seed: Of the seeds of all answers; None: others each time.
        device: "auto", or a torch device.
    """

    checkpoint: Path
    params: SamplingParams
    n_loops: int | None = None
    exit: str | None = None
    system: str = ""
    as_text: bool = False
    seed: int | None = None
    device: str = "auto"


def run(asked: Asked) -> None:
    """Talk until /quit or the end of the input.

    Raises:
        MythosError: If there is no model, or an option cannot be.
    """
    opened = open_checkpoint(asked.checkpoint, asked.device)
    generator = torch.Generator()
    generator.seed() if asked.seed is None else generator.manual_seed(asked.seed)
    session = Session(
        opened.model,
        opened.tokenizer,
        Manner(asked.params),
        by_turns=False if asked.as_text else None,
        generator=generator,
    )
    for name, value in (("loops", asked.n_loops), ("exit", asked.exit), ("system", asked.system)):
        if value:
            obey(session, f"/{name} {value}")
    screen = _screen()
    screen.note(f"{asked.checkpoint.name}: {session.depth}. /help shows the orders.")
    if not session.by_turns:
        screen.note(CONTINUES if asked.as_text else f"no chat template: {CONTINUES}")
    talk(session, screen, typed(sys.stdin, sys.stderr))


def talk(session: Session, screen: Screen, lines: Iterator[str]) -> None:
    """Answer every line and obey every order; a mistake is said, and the session goes on."""
    for line in lines:
        try:
            if is_order(line):
                screen.note(obey(session, line))
            elif line.strip() or not session.by_turns:
                pieces = session.answer(spoken(line))
                if session.left_out:
                    what = "turns" if session.by_turns else "tokens"
                    screen.note(f"(no room for the first {session.left_out} {what})")
                screen.show(pieces, session.deepest)
        except QuitOrder:
            return
        except KeyboardInterrupt:  # before an answer began, or behind its end
            screen.note("(stopped)")
        except MythosError as error:
            screen.note(str(error))


def typed(given: TextIO, err: TextIO) -> Iterator[str]:
    """Lines of the input, by hand with what readline offers; one that ends in a backslash goes on.

    Args:
        given: The input.
        err: Where the prompt is shown when the input is a terminal and the output is not.
    """
    by_hand = given is sys.stdin and given.isatty()
    if by_hand:
        _edit_lines()
    begun = ""
    while True:
        try:
            line = _by_hand(err) if by_hand else given.readline()
        except KeyboardInterrupt:
            if not by_hand:
                raise
            err.write("\n(/quit, or Ctrl-D, ends the session)\n")
            begun = ""
            continue
        if not line:
            if begun:
                yield begun
            return
        line = line.removesuffix("\n").removesuffix("\r")
        if line.endswith("\\"):
            begun += line[:-1] + "\n"
            continue
        yield begun + line
        begun = ""


def _by_hand(err: TextIO) -> str:
    """A line with its end; "" at the end of the input."""
    try:
        if sys.stdout.isatty():
            return input(PROMPT) + "\n"
        err.write(PROMPT)
        err.flush()
        return sys.stdin.readline()
    except EOFError:
        sys.stdout.write("\n")
        return ""


def _edit_lines() -> None:
    """Arrow keys and earlier lines, where Python was built with them; `input` then has them."""
    try:
        import readline  # noqa: F401, PLC0415 -- absent on Windows, and it acts when imported
    except ImportError:
        return


def _screen() -> Screen:
    console = Console(highlight=False, markup=False, emoji=False)
    # rich would draw on what is no terminal where FORCE_COLOR is set, as in some CI.
    if not sys.stdout.isatty() or console.is_dumb_terminal or os.environ.get("TERM") == "dumb":
        return PlainScreen(sys.stdout, sys.stderr)
    return LiveScreen(console)
