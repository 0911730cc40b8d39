"""Limits: counted against a plain simulation with a clock of its own."""

import math
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from open_mythos.serve.limits import REMEMBERED, Limits
from open_mythos.serve.refusals import Refusal
from open_mythos.serve.settings import ServeConfig


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_requests_at_once_are_bounded_in_all_and_by_caller() -> None:
    limits = Limits(ServeConfig(in_flight=3, key_in_flight=2))
    with ExitStack() as held:
        held.enter_context(limits.admitted("a"))
        held.enter_context(limits.admitted("a"))
        with pytest.raises(Refusal) as caught, limits.admitted("a"):
            pass
        assert (caught.value.status, caught.value.code) == (429, "concurrency_limit_exceeded")
        held.enter_context(limits.admitted("b"))
        with pytest.raises(Refusal) as caught, limits.admitted("c"):
            pass
        assert caught.value.status == 503
        assert limits.in_flight == 3
    assert limits.in_flight == 0
    with pytest.raises(ZeroDivisionError), limits.admitted("a"):
        1 / 0  # noqa: B018
    assert limits.in_flight == 0
    assert not limits._by_caller


def entering(limits: Limits) -> float | None:
    """Seconds to wait; None: it came in."""
    try:
        with limits.admitted("a"):
            return None
    except Refusal as refusal:
        return refusal.wait if refusal.status == 429 else math.inf


def test_a_minute_has_so_many_requests_and_says_when_to_come_back() -> None:
    clock, most = Clock(), 6
    limits = Limits(ServeConfig(key_per_minute=most), clock)
    taken: list[float] = []
    draws = np.random.default_rng(0)
    for _ in range(300):
        clock.now += float(draws.exponential(4.0))
        wait = entering(limits)
        if wait is None:
            taken.append(clock.now)
        else:
            clock.now += wait + 1e-6
            with limits.admitted("a"):
                taken.append(clock.now)
    # A bucket of `most` that refills at most/60: in any t seconds at most `most` + t * most / 60.
    for i in range(len(taken)):
        for j in range(i, len(taken)):
            assert j - i + 1 <= most + (taken[j] - taken[i]) * most / 60 + 1e-6
    assert len(taken) > 100


def test_callers_are_apart_and_forgotten() -> None:
    clock = Clock()
    limits = Limits(ServeConfig(key_per_minute=1), clock)

    def enters(name: str) -> Any:
        try:
            with limits.admitted(name):
                return True
        except Refusal:
            return False

    assert all(enters(f"caller {i}") for i in range(REMEMBERED + 50))
    assert len(limits._buckets) <= REMEMBERED
    assert not enters(f"caller {REMEMBERED + 49}")
    clock.now = 61.0
    assert enters("another")
    assert len(limits._buckets) == 1
