"""Streams: merged they lose nothing, and who leaves frees what was his."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from open_mythos.engine.request import Request
from open_mythos.errors import InputError
from open_mythos.generate.params import SamplingParams
from open_mythos.serve.app import build_app
from open_mythos.serve.streams import GoneError, merged, open_all, unless_gone


def within(work: Awaitable[Any]) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(work, 60)

    return asyncio.run(limited())


def ask(i: int, most: int = 5) -> Request:
    return Request([i, i + 1], SamplingParams(max_tokens=most, seed=i, ignore_eos=True))


@pytest.mark.parametrize("count", [1, 5])
def test_merged_streams_are_each_in_order(build_service: Any, count: int) -> None:
    service = build_service()

    async def work() -> Any:
        async with service.front as front:
            together = await open_all(front, [ask(i) for i in range(count)])
            mixed = [(place, event.token) async for place, event in merged(together)]
            alone = []
            for i in range(count):
                [stream] = await open_all(front, [ask(i)])
                alone.append([event.token async for event in stream])
            return mixed, alone

    mixed, alone = within(work())
    assert [[token for at, token in mixed if at == i] for i in range(count)] == alone


def test_all_are_opened_or_none(build_service: Any) -> None:
    service = build_service()

    async def work() -> None:
        async with service.front as front:
            with pytest.raises(InputError):
                await open_all(front, [ask(1, 60), ask(2, 60), Request([])])
            await front.drain()

    within(work())
    assert service.front.engine.stats.used == 0
    assert service.front.engine.counters.tokens < 120


def test_work_ends_with_whoever_wanted_it() -> None:
    ended: list[str] = []

    async def work() -> str:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append("work")
        return "done"

    async def leave() -> dict[str, str]:
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def stay() -> dict[str, str]:
        await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    async def quick() -> str:
        return "done"

    with pytest.raises(GoneError):
        within(unless_gone(leave, work()))  # type: ignore[arg-type]
    assert ended == ["work"]
    assert within(unless_gone(stay, quick())) == "done"  # type: ignore[arg-type]


async def hang_up(service: Any, body: dict[str, Any], when: Callable[[int], bool]) -> list[Any]:
    """Speak ASGI by hand; disconnect once `when(messages sent)`. What was sent until then."""
    sent: list[Any] = []
    raw = json.dumps({"model": "tiny", **body}).encode()
    received = iter([{"type": "http.request", "body": raw, "more_body": False}])
    leaving = asyncio.Event()

    async def receive() -> Any:
        for message in received:
            return message
        while not when(len(sent)):
            await asyncio.sleep(0.001)
        leaving.set()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if leaving.is_set():
            await asyncio.sleep(30)  # who has left takes nothing

    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers,
             "raw_path": b"/v1/completions", "query_string": b"", "root_path": "",
             "scheme": "http", "http_version": "1.1", "client": ("127.0.0.1", 1),
             "server": ("127.0.0.1", 80), "asgi": {"version": "3.0"}}  # fmt: skip
    app = build_app(service)
    async with app.router.lifespan_context(app):
        await app(scope, receive, send)
        assert (await service.front.stats()).used == 0
    return sent


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_blocks(build_service: Any, stream: bool) -> None:
    service = build_service()
    body = {"prompt": ["ab", "cd"], "max_tokens": 60, "n": 4, "ignore_eos": True, "stream": stream}

    def when(messages: int) -> bool:
        return messages > 5 if stream else service.front.engine.counters.tokens > 5

    sent = within(hang_up(service, body, when))
    counters = service.front.engine.counters
    assert 5 < counters.tokens < 8 * 60
    assert counters.finished == counters.requests * 4 == 8
    assert len(sent) == 0 or stream
    assert service.limits.in_flight == 0
    assert (
        "open_mythos_gone_total 1.0" in service.metrics.text(service.front.engine.stats, 0).decode()
    )
