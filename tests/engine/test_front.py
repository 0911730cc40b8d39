"""The asynchronous front: streams get their own events, and whoever goes away is cancelled."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from open_mythos.engine.engine import Engine
from open_mythos.engine.front import AsyncEngine
from open_mythos.engine.request import Event, Request
from open_mythos.errors import BusyError, InputError


def within(seconds: float, work: Coroutine[Any, Any, Any]) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(work, seconds)

    return asyncio.run(limited())


async def read(front: AsyncEngine, request: Request) -> list[Event]:
    return [event async for event in front.stream(request)]


def test_every_stream_gets_its_own_tokens(build: Any, ask: Any, alone: Any, sizes: Any) -> None:
    model = build()
    requests = [ask([i, 2 * i], 3 + i, 1 + i % 3) for i in range(6)]

    async def work() -> list[list[Event]]:
        async with AsyncEngine(Engine(model, settings=sizes())) as front:
            return list(await asyncio.gather(*(read(front, request) for request in requests)))

    for request, events in zip(requests, within(30, work()), strict=True):
        assert [event.token for event in events] == alone(model, request)
        assert [event.finish for event in events[:-1]] == [None] * (len(events) - 1)
        assert len({event.request for event in events}) == 1


def test_a_closed_stream_cancels_its_request(build: Any, ask: Any, sizes: Any) -> None:
    engine = Engine(build(), settings=sizes())

    async def work() -> None:
        async with AsyncEngine(engine) as front:
            stream = front.stream(ask([1, 2], 15))
            await anext(stream)
            await stream.aclose()
            begun = asyncio.Event()

            async def read_on() -> None:
                async for _ in front.stream(ask([3, 4], 16)):
                    begun.set()

            reader = asyncio.create_task(read_on())
            await begun.wait()  # many steps before its end
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            await front.drain()
            assert (await front.stats()).running == 0

    within(30, work())
    assert engine.counters.finished == engine.counters.requests > 0
    assert engine.stats.used == 0


def test_who_does_not_read_is_held_at_the_buffer(
    build: Any, ask: Any, alone: Any, sizes: Any
) -> None:
    model, request = build(), ask([1, 2], 14, 1)

    async def work() -> list[Event]:
        async with AsyncEngine(Engine(model, settings=sizes()), buffer=3) as front:
            stream = await front.open(request)
            await read(front, ask([5, 6], 16, 3))  # many steps meanwhile
            assert 3 <= stream.waiting <= 5
            return [event async for event in stream]

    assert [event.token for event in within(30, work())] == alone(model, request)


def test_draining_waits_for_who_is_being_taken_in(build: Any, ask: Any, sizes: Any) -> None:
    engine = Engine(build(), settings=sizes())

    async def work() -> None:
        async with AsyncEngine(engine) as front:
            opening = asyncio.create_task(front.open(ask([1, 2], 3)))
            await asyncio.sleep(0)  # asked for, and not yet seen by the engine
            await front.drain()
            assert opening.done()
            assert (await opening).waiting == 3
            with pytest.raises(BusyError, match="about to end"):
                await front.open(ask([1, 2], 3))

    within(30, work())
    assert engine.counters.finished == 1


def test_refusals_come_before_anything_runs(build: Any, ask: Any, sizes: Any) -> None:
    async def work() -> None:
        front = AsyncEngine(Engine(build(), settings=sizes(rows=1, queue=1)))
        assert not front.running
        with pytest.raises(BusyError, match="not running"):
            await front.open(ask([1], 2))
        async with front:
            with pytest.raises(InputError, match="empty"):
                await front.open(ask([], 2))
            streams = [await front.open(ask([1], 12))]
            while (await front.stats()).waiting:  # it has the only row soon
                await asyncio.sleep(0)
            streams.append(await front.open(ask([2], 12)))
            with pytest.raises(BusyError, match="queue"):
                await front.open(ask([3], 12))
            assert front.running
            draining = asyncio.create_task(front.drain())
            await asyncio.sleep(0)
            assert not front.running
            with pytest.raises(BusyError, match="about to end"):
                await front.open(ask([1], 2))
            for stream in streams:
                assert [event async for event in stream][-1].finish == "length"
            await draining
        assert front.engine.stats.used == 0

    within(30, work())


def test_leaving_cancels_everybody(build: Any, ask: Any, sizes: Any) -> None:
    engine = Engine(build(), settings=sizes())

    async def work() -> None:
        async with AsyncEngine(engine) as front:
            await front.open(ask([1], 16))
            await front.open(ask([2], 16))
        assert (await front.stats()).running == 0

    within(30, work())
    assert not engine.busy
    assert engine.stats.used == 0


def test_a_broken_engine_is_told_to_all_who_wait(
    build: Any, ask: Any, sizes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(build(), settings=sizes())

    def broken() -> list[Event]:
        raise MemoryError("none left")

    async def work() -> None:
        async with AsyncEngine(engine) as front:
            stream = await front.open(ask([1], 16))
            await anext(stream)
            assert not front.broken
            monkeypatch.setattr(engine, "step", broken)
            with pytest.raises(RuntimeError, match="broke") as caught:
                async for _ in stream:
                    pass
            assert isinstance(caught.value.__cause__, MemoryError)
            with pytest.raises(RuntimeError, match="broke"):
                await front.open(ask([1], 2))
            with pytest.raises(RuntimeError, match="broke"):
                await front.ask(lambda: 1)
            assert (await front.stats()).running == 1
            assert front.broken
            assert not front.running

    within(30, work())


def test_questions_are_put_in_the_engines_thread_between_its_steps(
    build: Any, ask: Any, alone: Any, sizes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    engine = Engine(model, settings=sizes())
    step, stepping = engine.step, threading.Event()

    def noted() -> list[Event]:
        stepping.set()
        try:
            return step()
        finally:
            stepping.clear()

    monkeypatch.setattr(engine, "step", noted)
    request = ask([3, 1], 12)

    async def work() -> None:
        front = AsyncEngine(engine)
        with pytest.raises(BusyError, match="not running"):
            await front.ask(lambda: 1)
        async with front:
            reader = asyncio.create_task(read(front, request))
            for _ in range(5):
                name, within_step = await front.ask(
                    lambda: (threading.current_thread().name, stepping.is_set())
                )
                assert name.startswith("engine")
                assert not within_step
                with pytest.raises(ZeroDivisionError):
                    await front.ask(lambda: 1 // 0)
            assert [event.token for event in await reader] == alone(model, request)
            assert not front.broken
        with pytest.raises(BusyError, match="not running"):
            await front.ask(lambda: 1)

    within(30, work())


def test_who_asks_while_it_breaks_is_told(
    build: Any, ask: Any, sizes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(build(), settings=sizes())

    def broken(request: Request) -> int:
        front.tell(lambda: 1 / 0)  # before the next step, when others have asked
        return -1

    async def work() -> None:
        async with front:
            monkeypatch.setattr(engine, "add", broken)
            asked = [front.open(ask([i], 2)) for i in range(2)]
            late = asyncio.create_task(front.stats())
            found = await asyncio.gather(*asked, late, return_exceptions=True)
            late_too = await asyncio.gather(front.open(ask([1], 2)), return_exceptions=True)
            assert any(isinstance(one, RuntimeError) for one in (*found, *late_too))

    front = AsyncEngine(engine)
    within(30, work())
