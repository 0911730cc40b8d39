"""Orders: lines of a chat that begin with a slash, and change how it goes on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from open_mythos.cli.chat_session import Session
from open_mythos.errors import InputError, did_you_mean
from open_mythos.nn.loop.exits.registry import CALIBRATED, exit_named


SLASH = "/"


class QuitOrder(Exception):
    """The session is to end."""


@dataclass(frozen=True)
class Order:
    """One of them.

    Attributes:
        obey: Does it, given what stands behind its name, and says what is so now.
        argument: What may stand there, for people.
        purpose: What it is for.
    """

    obey: Callable[[Session, str], str]
    argument: str
    purpose: str


def is_order(line: str) -> bool:
    """Whether a line is one; a message that begins with a slash has two."""
    return line.startswith(SLASH) and not line.startswith(2 * SLASH)


def spoken(line: str) -> str:
    """A line that is no order, as it is meant."""
    return line[1:] if line.startswith(2 * SLASH) else line


def obey(session: Session, line: str) -> str:
    """Do what a line orders; says what is so now.

    Raises:
        QuitOrder: If it ends the session.
        InputError: If there is no such order, or it cannot be done.
        ConfigError: If an exit is none.
    """
    name, _, argument = line.removeprefix(SLASH).partition(" ")
    if name not in ORDERS:
        raise InputError(f"there is no order /{name}; {did_you_mean(name, ORDERS)}, or /help")
    return ORDERS[name].obey(session, argument.strip())


def _help(session: Session, argument: str) -> str:
    del session, argument
    heads = {name: f"/{name} {order.argument}".rstrip() for name, order in ORDERS.items()}
    width = max(map(len, heads.values()))
    lines = [f"{heads[name]:{width}}  {order.purpose}" for name, order in ORDERS.items()]
    more = ["A line that ends in a backslash goes on in the next; one that begins with // is said "
            "with one slash.", "Ctrl-C ends an answer, Ctrl-D the session."]  # fmt: skip
    return "\n".join([*lines, *more])


def _loops(session: Session, argument: str) -> str:
    manner = session.manner
    if argument == "auto":
        if session.model.calibrated is not None:
            manner.n_loops, manner.exit = None, CALIBRATED
        elif session.model.cfg.readout != "last":
            manner.n_loops = manner.exit = None  # the model halts by itself
        else:
            raise InputError(
                "this model has no exit of its own; name one (/exit kl:0.001), or calibrate one: "
                "open-mythos calibrate FOLDER"
            )
    elif argument == "all":
        manner.n_loops = manner.exit = None
    elif argument:
        manner.n_loops = _count(argument, "/loops", 1)
    return session.depth


def _exit(session: Session, argument: str) -> str:
    if argument == "off":
        session.manner.exit = None
    elif argument == CALIBRATED:
        return _loops(session, "auto") if session.model.calibrated else _no_exit()
    elif argument:
        exit_named(argument)
        session.manner.exit = argument
    return session.depth


def _no_exit() -> str:
    raise InputError("nothing was calibrated for this model: open-mythos calibrate FOLDER")


def _temperature(session: Session, argument: str) -> str:
    params = session.manner.params
    if argument:
        try:
            params = replace(params, temperature=float(argument))
        except ValueError as error:  # InputError is one, and says more
            reason = str(error) if isinstance(error, InputError) else "give a number from 0 on"
            raise InputError(f"/temperature {argument}: {reason}") from None
        session.manner.params = params
    return f"temperature {params.temperature:g}"


def _tokens(session: Session, argument: str) -> str:
    if argument:
        most = _count(argument, "/tokens", 1)
        session.manner.params = replace(session.manner.params, max_tokens=most)
    return f"at most {session.manner.params.max_tokens} tokens an answer"


def _system(session: Session, argument: str) -> str:
    if not session.by_turns:
        raise InputError("this session continues text, which has no system message; say it first")
    if argument:
        session.system = "" if argument == "off" else argument
    return f"system: {session.system}" if session.system else "no system message"


def _reset(session: Session, argument: str) -> str:
    del argument
    session.reset()
    return "nothing was said"


def _save(session: Session, argument: str) -> str:
    if not argument:
        raise InputError("/save needs a file: /save talk.jsonl")
    return session.save(Path(argument))


def _quit(session: Session, argument: str) -> str:
    del session, argument
    raise QuitOrder


def _count(text: str, name: str, least: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise InputError(f"{name} {text}: give a whole number of at least {least}")
    return int(text)


ORDERS = {
    "help": Order(_help, "", "show this"),
    "loops": Order(_loops, "[N|all|auto]", "loops of a token: so many, all, or the model's exit"),
    "exit": Order(_exit, "[NAME:X|off]", "where tokens leave the loop early, e.g. kl:0.001"),
    "temperature": Order(_temperature, "[X]", "0 takes the likeliest token"),
    "tokens": Order(_tokens, "[N]", "most tokens of an answer"),
    "system": Order(_system, "[TEXT|off]", "what the model is told before the first turn"),
    "reset": Order(_reset, "", "forget what was said"),
    "save": Order(_save, "FILE", "write what was said to a file"),
    "quit": Order(_quit, "", "end the session"),
}
