"""Bounds of a server: wrong ones are refused, and so is a door without a lock."""

from typing import Any

import pytest

from open_mythos.errors import ConfigError
from open_mythos.serve.settings import ServeConfig


@pytest.mark.parametrize(
    "changes",
    [
        {"body_bytes": 0},
        {"in_flight": True},
        {"choices": 1.5},
        {"key_in_flight": 0},
        {"seconds": 0.0},
        {"idle_seconds": float("nan")},
        {"port": 70000},
    ],
)
def test_a_wrong_bound_is_named(changes: dict[str, Any]) -> None:
    [name] = changes
    with pytest.raises(ConfigError, match=f"serve.{name}"):
        ServeConfig(**changes)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_this_machine_needs_no_key(host: str) -> None:
    ServeConfig(host=host).require_safe(keyed=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_others_need_one_unless_told(host: str) -> None:
    with pytest.raises(ConfigError, match="--keys"):
        ServeConfig(host=host).require_safe(keyed=False)
    ServeConfig(host=host).require_safe(keyed=True)
    ServeConfig(host=host, public=True).require_safe(keyed=False)


def test_accepted_work_has_the_time_of_any_answer_unless_told() -> None:
    assert ServeConfig(seconds=7.0).patience == 7.0
    assert ServeConfig(seconds=7.0, drain_seconds=3.0).patience == 3.0
