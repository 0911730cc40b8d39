"""Exits by name: `kl:0.01`, your own class registered beside ours, or any object of your own."""

from typing import TypeVar

from open_mythos.errors import ConfigError, InputError, did_you_mean
from open_mythos.nn.loop.exits.criterion import Criterion, Exit, Own
from open_mythos.nn.loop.exits.gates import Act, Gate
from open_mythos.nn.loop.exits.predictions import KL, Entropy, Oracle, Stability
from open_mythos.nn.loop.exits.states import Acceleration, Fixed, Latent, Settled


EXITS: dict[str, type[Criterion]] = {
    kind.name: kind
    for kind in (Fixed, Act, Latent, Settled, Acceleration, KL, Entropy, Stability, Gate)
}
# The exit that is stored beside a model, and the one that needs to be told the answers.
CALIBRATED, ORACLE = "calibrated", Oracle.name

Kind = TypeVar("Kind", bound=type[Criterion])


def register_exit(kind: Kind) -> Kind:
    """Make a `Criterion` known by its name; a decorator.

    Raises:
        ConfigError: If the name is taken, or would not be found again.
    """
    name = kind.name
    if name in EXITS or name in (CALIBRATED, ORACLE) or not name.isidentifier():
        raise ConfigError(
            f"an exit cannot be registered as {name!r}; names are Python identifiers, and these "
            f"are taken: {', '.join(sorted([*EXITS, CALIBRATED, ORACLE]))}"
        )
    EXITS[name] = kind
    return kind


def exit_kind(name: str) -> type[Criterion]:
    """The criterion of a name.

    Raises:
        ConfigError: If there is none.
    """
    if name == ORACLE:
        raise ConfigError(
            "exit 'oracle' has to be told the answers: give model(..., exit=Oracle(targets)), of "
            "open_mythos.nn.loop.exits.predictions; it is for analysis"
        )
    if name not in EXITS:
        raise ConfigError(f"there is no exit {name!r}; {did_you_mean(name, [*EXITS, CALIBRATED])}")
    return EXITS[name]


def exit_named(text: str) -> Criterion:
    """`kl:0.01`, or `kl` for its default threshold.

    Raises:
        ConfigError: If the name is unknown, or the threshold missing, no number or out of range.
    """
    name, _, number = text.partition(":")
    kind = exit_kind(name)
    if not number:
        if kind.default is None:
            raise ConfigError(f"exit {text!r} has no threshold; write {name}:NUMBER")
        return kind(kind.default)
    try:
        threshold = float(number)
    except ValueError:
        raise ConfigError(
            f"exit {text!r} has threshold {number!r}, which is no number; write {name}:NUMBER"
        ) from None
    return kind(threshold)


def as_exit(given: object) -> Exit:
    """An exit from what a caller gave: a name, an `Exit`, or an object with `done(seen)`.

    Raises:
        InputError: If it is none of these.
        ConfigError: If it is a name that is unknown.
    """
    if isinstance(given, str):
        return exit_named(given)
    whole: Exit
    if callable(getattr(given, "score", None)) and callable(getattr(given, "done", None)):
        whole = given  # type: ignore[assignment]
        return whole
    if callable(getattr(given, "done", None)):
        return Own(given)
    raise InputError(
        f"exit is {given!r}; give a name such as 'kl:0.01', or an object with done(seen)"
    )
