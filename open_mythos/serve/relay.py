"""Relay: a server's door, behind which replicas answer; none of them is seen from outside."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import fields
from typing import Protocol

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from open_mythos.engine.counters import Counters, Stats
from open_mythos.errors import BusyError, LostError
from open_mythos.serve.guard import METERED, Guard, LetIn
from open_mythos.serve.journal import LOGGER
from open_mythos.serve.keys import Keys
from open_mythos.serve.limits import Limits
from open_mythos.serve.metrics import MEDIA_TYPE, Metrics
from open_mythos.serve.receiving import read_raw
from open_mythos.serve.record import Record
from open_mythos.serve.refusals import Refusal, broken
from open_mythos.serve.replica import BODY, Call, Part, Report
from open_mythos.serve.settings import ServeConfig
from open_mythos.serve.streams import FAREWELL, GoneError, unless_gone


OWN = frozenset(("/health", "/ready", "/metrics"))  # of the door, not of some replica
HEARTBEAT = 1.0  # seconds between two rounds of asking how replicas are
TIMEOUT = 5.0  # seconds that a round may take
# Seconds without any replica after which this is more than a restart, which reads a model anew.
GIVEN_UP = 300.0
SLACK = 10.0  # seconds beyond an answer's time: the replica itself ends it, unless it hangs


class Replicas(Protocol):
    """Replicas, wherever they are."""

    def ask(self, call: Call) -> AsyncGenerator[Part, None]:
        """One of them answers.

        Raises:
            BusyError: If none takes the call.
            LostError: If the one that had it is gone.
            RuntimeError: If its answer broke off.
        """
        ...

    async def reports(self) -> Sequence[Report]:
        """How each is, of those that run.

        Raises:
            TimeoutError: If not all say so in time.
        """
        ...


class Door:
    """What all requests share on their way to the replicas: keys, limits, numbers.

    Attributes:
        settings: Bounds.
        keys: Who may come in.
        limits: How much at once, over all replicas.
        metrics: What was done.
        replicas: Who answers.
        ending: Whether it takes nobody new.
        known: How each replica was when asked last.
    """

    def __init__(self, replicas: Replicas, settings: ServeConfig, keys: Keys | None = None) -> None:
        """In front of replicas."""
        self.settings, self.replicas = settings, replicas
        self.keys = Keys({}) if keys is None else keys
        self.limits, self.metrics = Limits(settings), Metrics()
        self.ending = False
        self.known: Sequence[Report] = ()
        self._seen = time.monotonic()

    @property
    def state(self) -> str:
        """In one word: "ready", "waiting" (for a replica), "ending" or "broken"."""
        if self.ending:
            return "ending"
        if any(report.state == "ready" for report in self.known):
            return "ready"
        return "waiting" if time.monotonic() - self._seen < GIVEN_UP else "broken"

    async def look(self) -> None:
        """Ask how the replicas are; where that takes too long, what was known stands."""
        try:
            self.known = await self.replicas.reports()
        except TimeoutError:
            return
        except Exception as error:  # noqa: BLE001 -- the next look may find them
            LOGGER.error("the replicas do not say how they are", exc_info=error)
            self.known = ()
        if any(report.state == "ready" for report in self.known):
            self._seen = time.monotonic()

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            await self.look()
            await asyncio.sleep(HEARTBEAT)

    @property
    def stats(self) -> Stats:
        """Of all engines together."""
        return added([report.stats for report in self.known])


def build_relay(door: Door) -> Starlette:
    """The app of `build_app` once more, with replicas instead of an engine."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await door.look()
        watch = asyncio.create_task(door.watch())
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    return Starlette(
        routes=[Mount("/", app=Relay(door))],
        lifespan=lifespan,
        middleware=[Middleware(Guard, service=door)],
    )


class Relay:
    """ASGI: each request to a replica, and its answer back."""

    def __init__(self, door: Door) -> None:
        """Behind a door."""
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer.

        Raises:
            Refusal: If nobody can.
            GoneError: If the client left.
        """
        if scope["path"] in OWN and scope["method"] in ("GET", "HEAD"):
            answer = await self._own(scope["path"])
            await answer(scope, receive, send)
            return
        request, settings = Request(scope, receive), self._door.settings
        record: Record = request.state.record
        metered = scope["path"] in METERED and scope["method"] == "POST"
        body = await read_raw(request, settings) if metered else b""
        if metered and settings.log_prompts:
            record.asked = body.decode("utf-8", "replace")
        call = Call(
            scope["method"], scope["path"], scope["query_string"], tuple(scope["headers"]), body,
            LetIn(record.id, record.caller, record.keyed),
        )  # fmt: skip
        passing = Passing(self._door.replicas, record, send)
        try:
            async with asyncio.timeout(settings.seconds + SLACK):
                await unless_gone(receive, passing.run(call))
        except GoneError:
            if not passing.complete:  # whoever has it all may leave
                raise
        except TimeoutError:
            await passing.fail(
                Refusal(504, "the replica that had this request does not answer", code="timeout")
            )

    async def _own(self, path: str) -> Response:
        door = self._door
        if path == "/metrics":
            await door.look()
            text = door.metrics.text(door.stats, door.limits.in_flight, len(door.known))
            return Response(text, media_type=MEDIA_TYPE)
        bad = door.state == "broken" if path == "/health" else door.state != "ready"
        told = {"status": door.state, "replicas": len(door.known)}
        return JSONResponse(told, 503 if bad else 200)


class Passing:
    """One answer on its way through.

    Attributes:
        complete: Whether all of it was sent.
    """

    def __init__(self, replicas: Replicas, record: Record, send: Send) -> None:
        """Of a request that has been read."""
        self._replicas, self._record, self._send = replicas, record, send
        self.complete = self._begun = self._streams = False

    async def run(self, call: Call) -> None:
        """To its end, an error where it breaks off.

        Raises:
            Refusal: If nothing of it was sent.
        """
        try:
            async with aclosing(self._replicas.ask(call)) as parts:
                async for part in parts:
                    await self._pass(part)
                    if part.last:
                        return
        except LostError as error:
            LOGGER.error("request %s lost its replica: %s", call.let_in.id, error)
            lost = "the replica that answered this request is gone, and its answer too; ask again"
            await self.fail(Refusal(503, lost, code="replica_lost", wait=1.0))
        except BusyError as error:
            await self.fail(Refusal(503, str(error), code="overloaded", wait=1.0))
        except RuntimeError as error:
            LOGGER.error("request %s broke off", call.let_in.id, exc_info=error)
            await self.fail(broken())

    async def fail(self, refusal: Refusal) -> None:
        """End it with an error: as an answer, or, too late for that, as a stream's last line.

        Raises:
            Refusal: If nothing was sent yet.
            RuntimeError: If half of what is no stream was.
        """
        if not self._begun:
            raise refusal
        self._record.code = refusal.code
        if not self._streams:
            raise RuntimeError(refusal.message)
        line = b"data: " + json.dumps(refusal.body, separators=(",", ":")).encode() + b"\n\n"
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):  # who takes nothing is not waited for
                await self._send({"type": BODY, "body": line, "more_body": False})

    async def _pass(self, part: Part) -> None:
        record = self._record
        if part.tokens and record.first is None:
            record.first = record.seconds
        record.prompt_tokens, record.tokens = part.prompt_tokens, part.tokens
        record.loops, record.code = part.loops, part.code
        for message in part.messages:
            if message["type"] == "http.response.start":
                self._begun = True
                kind = Headers(raw=message["headers"]).get("content-type", "")
                self._streams = kind.startswith("text/event-stream")
            await self._send(message)
        self.complete = part.last


def added(stats: Sequence[Stats]) -> Stats:
    """Engines taken together; bytes of a block are those of the largest."""
    counted = {f.name for f in fields(Stats)} - {"totals", "block_bytes"}
    totals = {f.name: sum(getattr(s.totals, f.name) for s in stats) for f in fields(Counters)}
    return Stats(
        **{name: sum(getattr(s, name) for s in stats) for name in counted},
        block_bytes=max((s.block_bytes for s in stats), default=0),
        totals=Counters(**totals),
    )
