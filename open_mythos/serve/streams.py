"""Streams: events of several requests as one flow, watched for whoever goes away meanwhile."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from open_mythos.engine.front import AsyncEngine, Stream
from open_mythos.engine.request import Event, Request


T = TypeVar("T")
FAREWELL = 1.0  # seconds in which a client must take the last line of a stream that took too long


class GoneError(Exception):
    """The client left before the answer was there."""


async def open_all(front: AsyncEngine, requests: Sequence[Request]) -> list[Stream]:
    """All of them, or none.

    Raises:
        InputError: If one cannot be answered.
        ConfigError: Likewise.
        BusyError: If there is no room for one.
        RuntimeError: If the engine broke.
    """
    tasks = [asyncio.ensure_future(front.open(request)) for request in requests]
    try:
        # Together, since each waits for the engine's step to end.
        found = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [one for one in found if isinstance(one, BaseException)]
        if errors:
            raise errors[0]
    except BaseException:
        for task in tasks:
            if task.done() and not task.cancelled() and task.exception() is None:
                await task.result().aclose()
        raise
    return [task.result() for task in tasks]


async def close_all(streams: Sequence[Stream]) -> None:
    """Cancel what has not ended."""
    for stream in streams:
        await stream.aclose()


async def merged(streams: Sequence[Stream]) -> AsyncGenerator[tuple[int, Event], None]:
    """Events with the place of their stream, as they come.

    Raises:
        RuntimeError: If the engine broke.
    """
    if len(streams) == 1:
        async for event in streams[0]:
            yield 0, event
        return
    # Of one place: who does not take holds the pumps, and the streams then hold the engine.
    queue: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue(1)

    async def pump(place: int, stream: AsyncIterator[Event]) -> None:
        try:
            async for event in stream:
                await queue.put((place, event))
        except RuntimeError as error:
            await queue.put((place, error))
        else:
            await queue.put((place, None))

    pumps = [asyncio.create_task(pump(i, stream)) for i, stream in enumerate(streams)]
    going = len(pumps)
    try:
        while going:
            place, news = await queue.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                going -= 1
            else:
                yield place, news
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; stopped if the client leaves before.

    Args:
        receive: The request's, whose body has been read.
        work: What to do meanwhile.

    Raises:
        GoneError: If the client left.
    """
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise GoneError
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    message: Message = {"type": "http.request"}
    while message["type"] != "http.disconnect":
        message = await receive()


class EventStream(StreamingResponse):
    """Server-sent events, ended when the client leaves, or takes longer than it may."""

    media_type = "text/event-stream"

    def __init__(
        self,
        lines: AsyncGenerator[bytes, None],
        closing: Callable[[bool], Awaitable[None]],
        seconds: float,
        late: bytes,
    ) -> None:
        """Of some lines.

        Args:
            lines: What to send.
            closing: Called at the end however it comes, with whether the client left before.
            seconds: Time for all of it.
            late: The last line, should that not be enough.
        """
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(lines, headers=headers)
        self._lines, self._closing = lines, closing
        self._seconds, self._late = seconds, late

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send it."""
        left = True
        try:
            async with asyncio.timeout(self._seconds):
                await unless_gone(receive, self.stream_response(send))
            left = False
        except GoneError:
            pass
        except TimeoutError:
            left = False
            with suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL):
                    await send({"type": "http.response.body", "body": self._late})
        finally:
            await self._lines.aclose()
            await self._closing(left)
