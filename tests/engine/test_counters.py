"""Counters start at nothing."""

from dataclasses import asdict

from open_mythos.engine.counters import Counters


def test_nothing_was_done_at_first() -> None:
    assert set(asdict(Counters()).values()) == {0}
