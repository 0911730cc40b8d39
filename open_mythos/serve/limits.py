"""Limits: how many requests are answered at once, and how many a caller may begin in a minute."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from open_mythos.serve.refusals import Refusal
from open_mythos.serve.settings import ServeConfig


REMEMBERED = 4096  # callers with a bucket; whose is full again needs none
SOON = 1.0  # seconds after which it is worth asking again where nobody knows


@dataclass
class Bucket:
    """What a caller may begin now, refilled as time passes.

    Attributes:
        left: Requests, in fractions.
        at: When that was so, in seconds.
    """

    left: float
    at: float


class Limits:
    """Requests under way, in all and by caller. For one thread.

    Attributes:
        in_flight: Requests under way.
    """

    def __init__(self, settings: ServeConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """None under way."""
        self._settings, self._clock = settings, clock
        self._by_caller: Counter[str] = Counter()
        self._buckets: dict[str, Bucket] = {}
        self.in_flight = 0

    @contextmanager
    def admitted(self, caller: str) -> Iterator[None]:
        """While a request is answered.

        Raises:
            Refusal: 503 if too many are under way, 429 if the caller has too many, or began too
                many of late.
        """
        most = self._settings.key_in_flight
        if most is not None and self._by_caller[caller] >= most:
            raise Refusal(
                429, f"{most} requests of this key are under way; wait for one to end",
                kind="requests", code="concurrency_limit_exceeded", wait=SOON, hang_up=True,
            )  # fmt: skip
        if self.in_flight >= self._settings.in_flight:
            raise Refusal(
                503, f"{self.in_flight} requests are under way; try again later",
                code="overloaded", wait=SOON, hang_up=True,
            )  # fmt: skip
        self._draw(caller)
        self.in_flight += 1
        self._by_caller[caller] += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._by_caller[caller] -= 1
            if not self._by_caller[caller]:
                del self._by_caller[caller]

    def _draw(self, caller: str) -> None:
        most = self._settings.key_per_minute
        if most is None:
            return
        now, speed = self._clock(), most / 60
        bucket = self._buckets.get(caller)
        if bucket is None:
            if len(self._buckets) >= REMEMBERED:
                self._forget(now, most)
            bucket = self._buckets[caller] = Bucket(float(most), now)
        bucket.left = min(most, bucket.left + speed * (now - bucket.at))
        bucket.at = now
        if bucket.left < 1:
            raise Refusal(
                429, f"this key began {most} requests in the last minute; wait a little",
                kind="requests", code="rate_limit_exceeded", wait=(1 - bucket.left) / speed,
                hang_up=True,
            )  # fmt: skip
        bucket.left -= 1

    def _forget(self, now: float, most: int) -> None:
        """Drop whoever has waited long enough to have everything again, or else the oldest."""
        full = [
            name for name, b in self._buckets.items() if b.left + most / 60 * (now - b.at) >= most
        ]
        for name in full or [next(iter(self._buckets))]:
            del self._buckets[name]
