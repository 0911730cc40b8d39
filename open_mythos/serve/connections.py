"""Connections: how long one may be open and say nothing, and how many may be.

uvicorn waits for ever for a request's first line, so that whoever opens connections and says
nothing, or a byte now and then, takes them all. Here a connection has some seconds for the head of
each request, and when many wait for one the oldest give way to the newest: a client that speaks at
once comes through however many do not.
"""

import asyncio
import socket
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from open_mythos.serve.settings import ServeConfig


FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)
GRACE = 1.0  # seconds in which nobody has to give way: a crowd connects before it is listened to
STALLED_MS = 60_000  # after which a peer that takes nothing of what was sent is given up


class PatientProtocol(H11Protocol):
    """HTTP/1.1 of one connection, with a time by which its next request must have begun.

    Attributes:
        settings: Bounds.
        waiting: All connections that wait for a request, the oldest first.
    """

    settings: ClassVar[ServeConfig]
    waiting: "ClassVar[dict[PatientProtocol, asyncio.TimerHandle]]"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection, of which there may be too many."""
        super().connection_made(transport)
        _give_up_when_stalled(transport.get_extra_info("socket"))
        self._make_room()
        if len(self.connections) > self.settings.connections:
            transport.write(FULL)
            transport.close()
            return
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Its end."""
        self._settle()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """What has come in; with the head of a request the waiting has an end."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._settle()

    def on_response_complete(self) -> None:
        """An answer is out; the next request has its time from now."""
        self._expect()
        super().on_response_complete()

    def _expect(self) -> None:
        self._settle()
        if self.transport.is_closing() and self.transport.get_write_buffer_size() == 0:
            return
        self.waiting[self] = self.loop.call_later(self.settings.idle_seconds, self._give_way)
        self._make_room()

    def _make_room(self) -> None:
        """Drop those that have waited longest while there are too many, each after its grace."""
        latest = self.loop.time() + self.settings.idle_seconds - GRACE
        while len(self.waiting) > self.settings.half_open:
            oldest, timer = next(iter(self.waiting.items()))
            if timer.when() > latest:
                return
            oldest._give_way()

    def _settle(self) -> None:
        timer = self.waiting.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _give_way(self) -> None:
        self._settle()
        self.transport.abort()


def patient(settings: ServeConfig) -> type[PatientProtocol]:
    """The protocol of one server, with its own list of who waits."""
    kept: dict[str, Any] = {"settings": settings, "waiting": {}}
    return type("ServerProtocol", (PatientProtocol,), kept)


def _give_up_when_stalled(endpoint: socket.socket | None) -> None:
    """A client that stops reading holds what was written for it; the kernel ends that (Linux)."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if endpoint is not None and option is not None and endpoint.family != socket.AF_UNIX:
        endpoint.setsockopt(socket.IPPROTO_TCP, option, STALLED_MS)
