"""Exits by name."""

from collections.abc import Iterator

import pytest
from torch import Tensor

from open_mythos.errors import ConfigError, InputError
from open_mythos.nn.loop.exits.criterion import Criterion, Kept, Own, Seen, unknown
from open_mythos.nn.loop.exits.predictions import KL
from open_mythos.nn.loop.exits.registry import EXITS, as_exit, exit_named, register_exit


@pytest.fixture
def clean() -> Iterator[None]:
    before = dict(EXITS)
    yield
    EXITS.clear()
    EXITS.update(before)


def test_a_name_with_a_threshold_or_its_default() -> None:
    assert exit_named("kl:0.01") == KL(0.01)
    assert exit_named("kl") == KL(5e-4)
    for name, kind in EXITS.items():
        assert kind.name == name
        if kind.default is not None:
            assert exit_named(name).threshold == kind.default


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kll:0.1", "there is no exit 'kll'; did you mean 'kl'"),
        ("nothing", "there is no exit 'nothing'; known: acceleration, act"),
        ("kl:small", "threshold 'small', which is no number; write kl:NUMBER"),
        ("fixed", "exit 'fixed' has no threshold; write fixed:NUMBER"),
        ("fixed:1.5", "threshold of exit 'fixed' is 1.5; it must be a whole number"),
        ("gate:2", r"threshold of exit 'gate' is 2\.0; it must lie in \(0, 1\]"),
        ("oracle", r"exit 'oracle' has to be told the answers.*Oracle\(targets\)"),
    ],
)
def test_what_is_no_exit_says_why(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        as_exit(text)


def test_objects_are_taken_as_they_are_or_wrapped() -> None:
    rule = KL(0.1)
    assert as_exit(rule) is rule
    plain = type("Plain", (), {"done": lambda self, seen: seen})()
    assert as_exit(plain) == Own(plain)
    with pytest.raises(InputError, match=r"exit is 0\.5; give a name such as 'kl:0\.01'"):
        as_exit(0.5)


@pytest.mark.usefixtures("clean")
def test_a_registered_criterion_is_found_by_its_name() -> None:
    @register_exit
    class Loud(Criterion):
        name = "loud"
        default = 2.0
        above = True

        def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:
            return unknown(seen.after, 0.0) + seen.after.norm(dim=-1), kept

    assert as_exit("loud:3") == Loud(3.0)
    assert exit_named("loud").threshold == 2.0
    for taken in ("loud", "kl", "oracle", "calibrated", "has:colon", ""):
        with pytest.raises(ConfigError, match=r"cannot be registered as .*taken: acceleration"):
            register_exit(type("Again", (Criterion,), {"name": taken}))
