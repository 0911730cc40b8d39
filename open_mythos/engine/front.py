"""AsyncEngine: an engine for a server, which waits while a thread of its own makes tokens."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from open_mythos.engine.counters import Stats
from open_mythos.engine.engine import Engine
from open_mythos.engine.request import Event, Request
from open_mythos.errors import BusyError


T = TypeVar("T")

PAUSE = 0.005  # seconds between steps that find nothing to do: all wait for whoever rests


class Stream:
    """The events of one request, as they come; close it to cancel the rest.

    Attributes:
        number: Of the request; -1 until it is taken in.
    """

    def __init__(self, front: "AsyncEngine", request: Request) -> None:
        """For a request that is about to be taken in."""
        self.number = -1
        self._front, self._open = front, request.sampling.n
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()
        self._error: BaseException | None = None
        self._held = False

    def __aiter__(self) -> "Stream":
        """Itself."""
        return self

    async def __anext__(self) -> Event:
        """The next event, when there is one.

        Raises:
            StopAsyncIteration: Behind the last.
            RuntimeError: If the engine broke.
        """
        while not self._events:
            if self._error is not None:
                raise RuntimeError("the engine broke down") from self._error
            if not self._open:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        event = self._events.popleft()
        if self._held and len(self._events) <= self._front.buffer // 2:
            self._held = False
            self._front.tell(lambda: self._front.engine.hold(self.number, still=False))
        return event

    async def aclose(self) -> None:
        """Cancel what has not ended; nothing where all has."""
        if self._open and self._error is None:
            self._front.tell(lambda: self._front.engine.cancel(self.number))
        self._open = 0
        self._events.clear()
        self._news.set()
        self._front.forget(self)

    @property
    def waiting(self) -> int:
        """Events that nobody has taken yet."""
        return len(self._events)

    def put(self, event: Event) -> None:
        """An event of this request."""
        if not self._open:
            return
        self._events.append(event)
        self._open -= event.finish is not None
        self._news.set()
        if not self._open:
            self._front.forget(self)
        elif len(self._events) >= self._front.buffer and not self._held:
            self._held = True
            self._front.tell(lambda: self._front.engine.hold(self.number))

    def fail(self, error: BaseException) -> None:
        """No more events will come."""
        self._error = error
        self._news.set()


class AsyncEngine:
    """Requests from coroutines to an engine that steps in one thread, and events back to them.

    A request whose events nobody takes rests when `buffer` of them wait, and a few that were under
    way; it keeps its cache for as long as nobody else needs the room.

    Attributes:
        engine: The engine, touched by its thread alone.
        buffer: Events of one request that may wait for whoever reads them.
    """

    def __init__(self, engine: Engine, *, buffer: int = 64) -> None:
        """Start it with `async with`, in the event loop that it is to serve."""
        self.engine, self.buffer = engine, buffer
        self._streams: dict[int, Stream] = {}
        self._said: list[Callable[[], object]] = []
        self._asked: set[asyncio.Future[Any]] = set()
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._task: asyncio.Task[None] | None = None
        self._draining = False
        self._error: BaseException | None = None

    async def __aenter__(self) -> "AsyncEngine":
        """Begin to step."""
        self._task = asyncio.get_running_loop().create_task(self._work())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel whoever is left, and stop."""
        for stream in list(self._streams.values()):
            await stream.aclose()
        self._draining = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    @property
    def running(self) -> bool:
        """Whether a request would be taken in, if there is room."""
        return self._task is not None and not self._task.done() and not self._draining

    @property
    def broken(self) -> bool:
        """Whether the engine failed; it answers nobody any more."""
        return self._error is not None

    async def open(self, request: Request) -> Stream:
        """Hand in a request; its events come from what this returns.

        Raises:
            InputError: If it cannot be answered.
            ConfigError: Likewise.
            BusyError: If too many wait, or the engine is ending.
            RuntimeError: If the engine broke.
        """
        self.engine.check(request)
        if self._error is not None:
            raise RuntimeError("the engine broke down") from self._error
        if self._draining or self._task is None:
            raise BusyError("the engine is not running, or is about to end; try another")
        stream = Stream(self, request)

        def take() -> None:
            stream.number = self.engine.add(request)
            self._streams[stream.number] = stream

        try:
            await self._put(take)
        except asyncio.CancelledError:
            # Whether it was taken in is not known here; behind `take`, it is.
            loop = asyncio.get_running_loop()
            self.tell(lambda: self.engine.cancel(stream.number))
            self.tell(lambda: loop.call_soon_threadsafe(self.forget, stream))
            raise
        return stream

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """The events of a request; closing the generator cancels it. Errors as of `open`."""
        opened = await self.open(request)
        try:
            async for event in opened:
                yield event
        finally:
            await opened.aclose()

    async def drain(self) -> None:
        """Take in nobody more, and wait until all have ended."""
        self._draining = True
        while (self._streams or self._asked) and self._error is None:
            self._empty.clear()
            await self._empty.wait()

    async def stats(self) -> Stats:
        """What the engine does, between two of its steps."""
        if self._task is None or self._task.done():
            return self.engine.stats
        found: Stats = await self._put(lambda: self.engine.stats)
        return found

    async def ask(self, question: Callable[[], T]) -> T:
        """What a question of yours finds, put in the engine's thread between two of its steps.

        Nobody else touches the model meanwhile, and all requests wait for it: keep it short.

        Raises:
            Exception: What the question raises; the engine goes on.
            BusyError: If the engine is not running.
            RuntimeError: If it broke.
        """
        if self._error is not None:
            raise RuntimeError("the engine broke down") from self._error
        if self._task is None or self._task.done():
            raise BusyError("the engine is not running; try another")
        found: T = await self._put(question)
        return found

    async def _put(self, question: Callable[[], Any]) -> Any:
        """What the engine's thread answers before its next step, or raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def work() -> None:
            try:
                found = question()
            except Exception as error:  # noqa: BLE001 -- raised where it was asked
                loop.call_soon_threadsafe(_settle, answer, None, error)
            else:
                loop.call_soon_threadsafe(_settle, answer, found, None)

        self._asked.add(answer)
        answer.add_done_callback(self._answered)
        self.tell(work)
        return await answer

    def _answered(self, answer: "asyncio.Future[Any]") -> None:
        self._asked.discard(answer)
        self._empty.set()  # maybe: whoever waits looks again

    def tell(self, command: Callable[[], object]) -> None:
        """Let the engine's thread do something before its next step."""
        self._said.append(command)
        self._wake.set()

    def forget(self, stream: Stream) -> None:
        """Nobody waits for this request any more."""
        self._streams.pop(stream.number, None)
        if not self._streams:
            self._empty.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            said, self._said = self._said, []
            try:
                events, busy = await loop.run_in_executor(self._thread, self._step, said)
            except Exception as error:  # noqa: BLE001 -- told to everybody who waits
                self._break(error)
                return
            for event in events:
                stream = self._streams.get(event.request)
                if stream is not None:
                    stream.put(event)
            if busy:
                self._wake.set()
                if not self.engine.moved:
                    await asyncio.sleep(PAUSE)
            elif self._draining and not self._said and not self._streams:
                return

    def _step(self, said: list[Callable[[], object]]) -> tuple[list[Event], bool]:
        for command in said:
            command()
        return (self.engine.step() if self.engine.busy else []), self.engine.busy

    def _break(self, error: Exception) -> None:
        self._error = error
        for stream in list(self._streams.values()):
            stream.fail(error)
        self._streams.clear()
        self._empty.set()
        for answer in list(self._asked):
            broken = RuntimeError("the engine broke down")
            broken.__cause__ = error
            _settle(answer, None, broken)


def _settle(future: "asyncio.Future[Any]", result: object, error: Exception | None) -> None:
    """Answer who waits, if he still does."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
