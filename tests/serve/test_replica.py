"""A replica against the app that it holds: the same answer, and an end when nobody wants it."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.tokenizer import save_tokenizer
from open_mythos.engine.settings import EngineConfig
from open_mythos.errors import MythosError


pytest.importorskip("fastapi")

from open_mythos.serve.guard import LetIn
from open_mythos.serve.replica import Call, Part, Plan, Replica
from open_mythos.serve.service import Served, Service
from open_mythos.serve.settings import ServeConfig


SIZES = EngineConfig(blocks=128, block_size=8, rows=8, chunk=32)


@pytest.fixture
def replica(build_model: Any, tmp_path: Path) -> Replica:
    build_model().save_pretrained(tmp_path)
    save_tokenizer(ByteTokenizer(), tmp_path)
    return Replica(Plan(str(tmp_path), "tiny", "cpu", ServeConfig(key_in_flight=1), SIZES))


def call(path: str = "/v1/completions", caller: str = "ann", **body: Any) -> Call:
    raw = json.dumps({"model": "tiny", **body}).encode()
    headers = ((b"content-type", b"application/json"), (b"host", b"anywhere"))
    method = "POST" if body else "GET"
    return Call(method, path, b"", headers, raw, LetIn("id-of-the-door", caller, True))


def within(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


def used(replica: Replica, script: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def work() -> Any:
        try:
            return await script()
        finally:
            await replica.close()

    return within(work())


async def asked(replica: Replica, call: Call) -> tuple[int, bytes, list[Part]]:
    parts = [part async for part in replica.answer(call)]
    messages = [message for part in parts for message in part.messages]
    body = b"".join(message.get("body", b"") for message in messages[1:])
    return messages[0]["status"], body, parts


def test_an_answer_is_that_of_the_service(replica: Replica, talk: Any) -> None:
    body = {"prompt": "hello", "max_tokens": 9, "seed": 4, "n": 3}
    plain = Service(Served("tiny", replica.service.served.model, ByteTokenizer()), sizes=SIZES)

    async def direct(client: Any) -> Any:
        return (await client.post("/v1/completions", json={"model": "tiny", **body})).json()

    expected = talk(plain, direct)
    status, raw, parts = used(replica, lambda: asked(replica, call(**body)))
    found = json.loads(raw)
    assert status == 200
    for name in ("choices", "usage", "model", "object"):
        assert found[name] == expected[name]
    assert parts[0] == Part()
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    told = (last.prompt_tokens, last.tokens, last.loops, last.code)
    usage = found["usage"]
    assert told == (usage["prompt_tokens"], usage["completion_tokens"], usage["loops"], None)


def test_the_doors_word_on_who_asks_is_taken(replica: Replica) -> None:
    async def script() -> Any:
        body = {"prompt": "a long text that fills some blocks", "max_tokens": 1}
        reused = []
        for caller in ("ann", "bob", "bob"):
            _, _, parts = await asked(replica, call(caller=caller, **body))
            headers = dict(next(p for p in parts if p.messages).messages[0]["headers"])
            assert headers[b"x-request-id"] == b"id-of-the-door"
            reused.append((await replica.report()).stats.reused)
        return reused

    first, second, third = used(replica, script)
    assert (first, second) == (0, 0)
    assert third > 0


def test_errors_are_answers_too(replica: Replica) -> None:
    async def script() -> Any:
        wrong = await asked(replica, call(prompt="a", max_tokens=-1))
        lost = await asked(replica, call("/nothing"))
        models = await asked(replica, call("/v1/models"))
        return wrong, lost, models

    wrong, lost, models = used(replica, script)
    assert (wrong[0], wrong[2][-1].code) == (400, "invalid_value")
    assert lost[0] == 404
    assert json.loads(models[1])["data"][0]["id"] == "tiny"


@pytest.mark.parametrize("stream", [False, True])
def test_what_nobody_wants_any_more_ends(replica: Replica, stream: bool) -> None:
    async def script() -> None:
        body = {"prompt": "a", "n": 4, "max_tokens": 60, "ignore_eos": True, "stream": stream}
        engine = replica.service.front.engine
        async with aclosing(replica.answer(call(**body))) as parts:
            await anext(parts)
            news = asyncio.ensure_future(anext(parts))
            while engine.counters.tokens < 8:
                await asyncio.sleep(0.001)
            if stream:
                await news
            else:  # nothing to send yet: whoever waits is told by the cancellation
                news.cancel()
                await asyncio.gather(news, return_exceptions=True)
        assert (await replica.report()).stats.used == 0
        assert engine.counters.tokens < 4 * 60
        assert replica.service.limits.in_flight == 0

    used(replica, script)


def test_limits_of_callers_are_the_doors(replica: Replica) -> None:
    async def script() -> Any:
        body = {"prompt": "a", "max_tokens": 20, "ignore_eos": True}
        return await asyncio.gather(*[asked(replica, call(**body)) for _ in range(6)])

    assert [status for status, *_ in used(replica, script)] == [200] * 6


def test_a_broken_engine_shows(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script() -> Any:
        await replica.check_health()
        before = await replica.report()

        def broken() -> None:
            raise RuntimeError("no more memory")

        monkeypatch.setattr(replica.service.front.engine, "step", broken)
        status, _, _ = await asked(replica, call(prompt="a", max_tokens=4))
        with pytest.raises(RuntimeError, match="the engine broke"):
            await replica.check_health()
        return before, status, await replica.report()

    before, status, after = used(replica, script)
    assert (before.state, status, after.state) == ("ready", 500, "broken")


def test_there_must_be_a_model(tmp_path: Path) -> None:
    with pytest.raises(MythosError):
        Replica(Plan(str(tmp_path), "tiny", "cpu"))
