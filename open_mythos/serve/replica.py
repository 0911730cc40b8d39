"""Replica: a whole server without a door, which answers requests that somebody else let in."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.types import Message

from open_mythos.data.tokenizer import tokenizer_from_folder
from open_mythos.engine.counters import Stats
from open_mythos.engine.settings import EngineConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.serve.app import build_app
from open_mythos.serve.guard import LET_IN, LetIn
from open_mythos.serve.record import Record
from open_mythos.serve.service import Served, Service
from open_mythos.serve.settings import ServeConfig
from open_mythos.train.build import find_device


MOST = 2**31 - 1
BODY = "http.response.body"
FAREWELL = 5.0  # seconds that an answer nobody wants any more has for putting things away


@dataclass(frozen=True)
class Plan:
    """What a replica is made of, wherever it is made.

    Attributes:
        folder: With the model and its tokenizer, at the same place on every machine.
        name: Of the model, as requests must say it.
        device: "auto", or a torch device.
        settings: Bounds; those of callers count at the door, and not here.
        sizes: Of the engine.
        threads: Of torch on a CPU; None leaves torch its own number.
    """

    folder: str
    name: str
    device: str = "auto"
    settings: ServeConfig = field(default_factory=ServeConfig)
    sizes: EngineConfig = field(default_factory=EngineConfig)
    threads: int | None = None


@dataclass(frozen=True)
class Call:
    """One request, read to its end and let in.

    Attributes:
        method: HTTP method.
        path: Of the URL.
        query: Of the URL.
        headers: As they came.
        body: All of it.
        let_in: Who asks.
    """

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    let_in: LetIn


@dataclass(frozen=True)
class Part:
    """What has come of an answer since the last part. The first is empty: the call has arrived.

    Attributes:
        messages: ASGI's, in order.
        prompt_tokens: Tokens of all prompts.
        tokens: Tokens written so far.
        loops: Of the positions that said them.
        code: Of the error, if it ended in one.
    """

    messages: tuple[Message, ...] = ()
    prompt_tokens: int = 0
    tokens: int = 0
    loops: int = 0
    code: str | None = None

    @property
    def last(self) -> bool:
        """Whether the answer is complete with it."""
        ends = self.messages[-1:]
        return any(m["type"] == BODY and not m.get("more_body", False) for m in ends)


@dataclass(frozen=True)
class Report:
    """How a replica is.

    Attributes:
        pid: Its process, on its machine.
        state: As `Service.state`.
        stats: Of its engine.
    """

    pid: int
    state: str
    stats: Stats


class Replica:
    """The app of `build_app` and the engine behind it, called instead of listening.

    Made anywhere, used in one event loop.
    """

    def __init__(self, plan: Plan) -> None:
        """Read the model and allocate the engine.

        Raises:
            MythosError: If there is no model, or it cannot be served.
        """
        model = OpenMythos.from_pretrained(plan.folder, device=find_device(plan.device))
        served = Served(plan.name, model, tokenizer_from_folder(plan.folder))
        free = replace(plan.settings, in_flight=MOST, key_in_flight=None, key_per_minute=None)
        self.service = Service(served, free, plan.sizes)
        self._app = build_app(self.service)
        self._stack = AsyncExitStack()
        self._started: asyncio.Task[Any] | None = None

    async def answer(self, call: Call) -> AsyncGenerator[Part, None]:
        """The answer in parts; closed before its end, the request ends as if the client had left.

        Raises:
            RuntimeError: If the answer broke off.
        """
        yield Part()
        await self._start()
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        left = asyncio.Event()
        scope = _scope(call)
        task = asyncio.create_task(self._app(scope, _receiver(call.body, left), messages.put))
        task.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            while True:
                # Whatever has come meanwhile travels together: a part costs more than a token.
                news = [await messages.get()]
                while not messages.empty():
                    news.append(messages.get_nowait())
                said = tuple(message for message in news if message is not None)
                if said:
                    yield _part(said, scope["state"].get("record"))
                if news[-1] is None:
                    task.result()
                    return
        finally:
            left.set()
            await asyncio.wait((task,), timeout=FAREWELL)
            task.cancel()

    async def report(self) -> Report:
        """How it is now."""
        await self._start()
        return Report(os.getpid(), self.service.state, await self.service.front.stats())

    async def check_health(self) -> None:
        """Whether it is of use.

        Raises:
            RuntimeError: If its engine broke; another replica is to take its place.
        """
        if self.service.state == "broken":
            raise RuntimeError("the engine broke; see the log of this replica")

    async def close(self) -> None:
        """End the engine."""
        await self._stack.aclose()

    async def _start(self) -> None:
        """Once, and whoever comes meanwhile waits: an engine starts in the loop that it serves."""
        if self._started is None:
            lifespan = self._app.router.lifespan_context(self._app)
            self._started = asyncio.create_task(self._stack.enter_async_context(lifespan))
        await asyncio.shield(self._started)


def _scope(call: Call) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": call.method,
        "scheme": "http",
        "path": call.path,
        "raw_path": call.path.encode("utf-8", "surrogatepass"),
        "query_string": call.query,
        "root_path": "",
        "headers": list(call.headers),
        "client": (call.let_in.caller, 0),
        "server": ("replica", 0),
        "state": {},
        LET_IN: call.let_in,
    }


def _receiver(body: bytes, left: asyncio.Event) -> Any:
    """The body, then nothing until the client leaves."""
    told = False

    async def receive() -> Message:
        nonlocal told
        if not told:
            told = True
            return {"type": "http.request", "body": body, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    return receive


def _part(messages: tuple[Message, ...], record: Record | None) -> Part:
    if record is None:
        return Part(messages)
    return Part(messages, record.prompt_tokens, record.tokens, record.loops, record.code)
