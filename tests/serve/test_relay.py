"""The door, in front of replicas in this process that can be lost, hang, or not be there."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.tokenizer import save_tokenizer
from open_mythos.engine.counters import Counters, Stats
from open_mythos.engine.settings import EngineConfig
from open_mythos.errors import BusyError, LostError


pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

from open_mythos.serve import relay  # noqa: E402 -- extras
from open_mythos.serve.keys import Keys  # noqa: E402
from open_mythos.serve.relay import Door, added, build_relay  # noqa: E402
from open_mythos.serve.replica import Call, Part, Plan, Replica, Report  # noqa: E402
from open_mythos.serve.server import build_server  # noqa: E402
from open_mythos.serve.service import Served, Service  # noqa: E402
from open_mythos.serve.settings import ServeConfig  # noqa: E402


COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
ANN, BOB = "ann's-secret-key-1234", "bob's-secret-key-1234"
SIZES = EngineConfig(blocks=128, block_size=8, rows=8, chunk=32)


class LocalReplicas:
    """Replicas in turn, without processes around them."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.all, self.turn, self.calls = list(replicas), 0, list[Call]()
        self.lost: set[int] = set()

    async def ask(self, call: Call) -> AsyncGenerator[Part, None]:
        self.calls.append(call)
        alive = [i for i in range(len(self.all)) if i not in self.lost]
        if not alive:
            raise BusyError("no replica takes requests now")
        self.turn += 1
        mine = alive[self.turn % len(alive)]
        async with aclosing(self.all[mine].answer(call)) as parts:
            async for part in parts:
                if mine in self.lost:
                    raise LostError("killed")
                yield part

    async def reports(self) -> Sequence[Report]:
        return [await one.report() for i, one in enumerate(self.all) if i not in self.lost]


@pytest.fixture
def local(build_model: Any, tmp_path: Path) -> LocalReplicas:
    build_model().save_pretrained(tmp_path)
    save_tokenizer(ByteTokenizer(), tmp_path)
    plan = Plan(str(tmp_path), "tiny", "cpu", ServeConfig(), SIZES)
    return LocalReplicas([Replica(plan) for _ in range(2)])


@pytest.fixture
def talk_to() -> Any:
    """`talk_to(door, script)`: run `await script(client)` through the door's own app."""

    def run(door: Door, script: Callable[[Any], Awaitable[Any]]) -> Any:
        async def work() -> Any:
            app = build_relay(door)
            transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("10.0.0.1", 1))
            try:
                async with (
                    app.router.lifespan_context(app),
                    httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
                ):
                    return await script(client)
            finally:
                for one in getattr(door.replicas, "all", ()):
                    await one.close()

        return asyncio.run(asyncio.wait_for(work(), 60))

    return run


def shown(answer: Any) -> Any:
    """All of an answer but its name and its times."""
    named = {"id": None, "created": None, "seconds": None}
    if "event-stream" not in answer.headers["content-type"]:
        found = answer.json()
        data = [one | named for one in found.get("data", ())] if isinstance(found, dict) else ()
        return answer.status_code, {**found, **named, "data": data}
    *lines, end = [line for line in answer.text.split("\n\n") if line]
    assert end == "data: [DONE]"
    return answer.status_code, [json.loads(line[6:]) | named for line in lines]


def test_through_the_door_everything_is_as_without_one(
    local: LocalReplicas, talk: Any, talk_to: Any
) -> None:
    served = local.all[0].service.served
    plain = Service(Served("tiny", served.model, ByteTokenizer()), ServeConfig(), SIZES)

    async def script(client: Any) -> list[Any]:
        hello = [{"role": "user", "content": "hello"}]
        posts = [
            (COMPLETIONS, {"prompt": ["ab", "cde"], "max_tokens": 7, "n": 2, "seed": 1}),
            (COMPLETIONS, {"prompt": "ab", "max_tokens": 7, "seed": 2, "stream": True}),
            (COMPLETIONS, {"prompt": "ab", "max_tokens": 4, "seed": 2, "logprobs": 2}),
            (CHAT, {"messages": hello, "max_tokens": 9, "seed": 3, "num_loops": 2}),
            (CHAT, {"messages": hello, "max_tokens": 9, "seed": 3, "stream": True}),
            (COMPLETIONS, {"prompt": "ab", "max_token": 7}),
            (COMPLETIONS, {"prompt": "a" * 500}),
            ("/v1/inspect", {"prompt": "abc", "top": 2}),
            ("/health", {}),
        ]
        found = [await client.post(path, json={"model": "tiny", **body}) for path, body in posts]
        paths = ["/v1/models", "/v1/models/tiny", "/v1/models/none", "/none", "/openapi.json", "/"]
        return [*found, *[await client.get(path) for path in paths]]

    expected = [shown(one) for one in talk(plain, script)]
    found = [shown(one) for one in talk_to(Door(local, ServeConfig()), script)]
    assert found == expected
    assert {status for status, _ in found} == {200, 400, 404, 405}
    engines = [one.service.front.engine.counters.requests for one in local.all]
    assert min(engines) > 0


def test_keys_and_limits_count_over_all_replicas(local: LocalReplicas, talk_to: Any) -> None:
    settings = ServeConfig(key_per_minute=3, body_bytes=1000)
    door = Door(local, settings, Keys({"ann": ANN, "bob": BOB}))

    async def script(client: Any) -> Any:
        body = {"model": "tiny", "prompt": "a", "max_tokens": 1}

        async def post(key: str, **changed: Any) -> Any:
            headers = {"Authorization": f"Bearer {key}"}
            return await client.post(COMPLETIONS, headers=headers, **{"json": body, **changed})

        let_in = [(await post(key)).status_code for key in (ANN, ANN, ANN, ANN, BOB, "x" * 20)]
        asked = len(local.calls)
        large = await post(BOB, json=body | {"prompt": "a" * 2000})
        sort = await post(BOB, json=None, content=b"{}")
        metrics = [await client.get("/metrics", headers=h)
                   for h in ({}, {"Authorization": f"Bearer {BOB}"})]  # fmt: skip
        return let_in, asked, large, sort, metrics

    let_in, asked, large, sort, metrics = talk_to(door, script)
    assert let_in == [200, 200, 200, 429, 200, 401]
    assert asked == 4
    assert (large.status_code, sort.status_code) == (413, 415)
    assert len(local.calls) == 4
    assert [one.status_code for one in metrics] == [401, 200]
    assert "open_mythos_replicas 2.0" in metrics[1].text
    assert "open_mythos_tokens_total 4.0" in metrics[1].text


def test_the_door_notes_what_replicas_did(
    local: LocalReplicas, talk_to: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(client: Any) -> Any:
        body = {"model": "tiny", "prompt": "abc", "max_tokens": 5, "ignore_eos": True}
        return [await client.post(COMPLETIONS, json={**body, "stream": s}) for s in (False, True)]

    with caplog.at_level("INFO"):
        answers = talk_to(Door(local, ServeConfig()), script)
    lines = [r.told for r in caplog.records if getattr(r, "told", {}).get("event") == "request"]
    assert [line["id"] for line in lines] == [a.headers["x-request-id"] for a in answers]
    for line in lines:
        assert (line["prompt_tokens"], line["tokens"], line["loops"]) == (3, 5, 20)
        assert line["first_token"] <= line["seconds"]
        assert "gone" not in line


@pytest.mark.parametrize("stream", [False, True])
def test_a_lost_replica_takes_its_own_answers_and_no_other(
    local: LocalReplicas, talk_to: Any, hold: Any, stream: bool
) -> None:
    release = hold(local.all[1].service.front.engine, 2)  # it is lost before it has answered
    body = {
        "model": "tiny",
        "prompt": "a",
        "max_tokens": 10,
        "ignore_eos": True,
        "stream": stream,
        "num_loops": 1,
    }

    async def script(client: Any) -> Any:
        asked = [asyncio.ensure_future(client.post(COMPLETIONS, json={**body, "seed": i}))
                 for i in range(4)]  # fmt: skip
        while min(one.service.front.engine.counters.tokens for one in local.all) < 2:
            await asyncio.sleep(0.001)
        local.lost.add(1)
        release()
        found = await asyncio.gather(*asked)
        local.lost.clear()
        again = [await client.post(COMPLETIONS, json={**body, "seed": i}) for i in range(4)]
        return found, again

    found, again = talk_to(Door(local, ServeConfig()), script)
    whole = [shown(one) for one in again]
    kept = 0
    for one, expected in zip(found, whole, strict=True):
        if "replica_lost" not in one.text:
            assert shown(one) == expected
            kept += 1
        elif stream:
            *said, end = [line for line in one.text.split("\n\n") if line]
            assert one.status_code == 200
            assert json.loads(end[6:])["error"]["code"] == "replica_lost"
            told = [json.loads(line[6:])["choices"] for line in said]
            assert told == [line["choices"] for line in expected[1][: len(told)]]
        else:
            assert (one.status_code, one.headers["retry-after"]) == (503, "1")
    assert kept == 2


def test_without_replicas_nobody_is_let_in_and_nothing_ends(
    local: LocalReplicas, talk_to: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.lost |= {0, 1}
    door = Door(local, ServeConfig())

    async def script(client: Any) -> Any:
        body = {"model": "tiny", "prompt": "a"}
        paths = ("/ready", "/health", "/v1/models")
        before = [await client.post(COMPLETIONS, json=body)]
        before += [await client.get(path) for path in paths]
        monkeypatch.setattr(relay, "GIVEN_UP", 0.0)
        late = await client.get("/health")
        local.lost.clear()
        await door.look()
        return before, late, [await client.get(path) for path in paths]

    before, late, after = talk_to(door, script)
    assert [one.status_code for one in before] == [503, 503, 200, 503]
    assert "waiting" in before[0].json()["error"]["message"]
    assert before[1].json() == {"status": "waiting", "replicas": 0}
    assert (late.status_code, late.json()["status"]) == (503, "broken")
    assert [one.status_code for one in after] == [200, 200, 200]


class Hanging(LocalReplicas):
    """Takes calls, begins them perhaps, and never ends them."""

    def __init__(self, begun: tuple[Any, ...]) -> None:
        super().__init__([])
        self.begun, self.closed = begun, 0

    async def ask(self, call: Call) -> AsyncGenerator[Part, None]:
        try:
            yield Part()
            if self.begun:
                yield Part(self.begun)
            await asyncio.sleep(60)
        finally:
            self.closed += 1

    async def reports(self) -> Sequence[Report]:
        return [Report(1, "ready", added([]))]


@pytest.mark.parametrize("begun", [False, True])
def test_a_replica_that_hangs_is_not_waited_for(
    talk_to: Any, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SLACK", 0.05)
    kind = [(b"content-type", b"text/event-stream; charset=utf-8")]
    head = {"type": "http.response.start", "status": 200, "headers": kind}
    line = {"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True}
    hanging = Hanging((head, line) if begun else ())

    async def script(client: Any) -> Any:
        return await client.post(COMPLETIONS, json={"model": "tiny", "prompt": "a"})

    # What was begun has a second to come through.
    answer = talk_to(Door(hanging, ServeConfig(seconds=1.0 if begun else 0.05)), script)
    assert answer.status_code == (200 if begun else 504)
    assert '"timeout"' in answer.text
    assert answer.text.startswith("data: {}\n\n") == begun
    assert hanging.closed == 1


def test_whoever_leaves_is_told_to_the_replica(local: LocalReplicas, talk_to: Any) -> None:
    door = Door(local, ServeConfig())

    async def script(client: Any) -> Any:
        body = {"model": "tiny", "prompt": "a", "max_tokens": 60, "n": 4, "ignore_eos": True}
        app = build_relay(door)
        leave = asyncio.Event()
        received = iter([{"type": "http.request", "body": json.dumps(body).encode()}])

        async def receive() -> Any:
            for message in received:
                return message
            await leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise AssertionError(message)

        scope = {"type": "http", "method": "POST", "path": COMPLETIONS, "query_string": b"",
                 "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
                 "root_path": "", "client": ("127.0.0.1", 1)}  # fmt: skip
        answered = asyncio.ensure_future(app(scope, receive, send))
        engines = [one.service.front.engine for one in local.all]
        while not any(engine.counters.tokens > 4 for engine in engines):
            await asyncio.sleep(0.001)
        leave.set()
        await answered
        return [(await one.report()).stats.used for one in local.all], engines

    blocks, engines = talk_to(door, script)
    assert blocks == [0, 0]
    assert sum(engine.counters.tokens for engine in engines) < 4 * 60
    assert "open_mythos_gone_total 1.0" in door.metrics.text(door.stats, 0).decode()


@pytest.mark.parametrize("begun", [False, True])
def test_an_answer_that_breaks_off_says_so(
    talk_to: Any, begun: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kind = [(b"content-type", b"text/event-stream; charset=utf-8")]
    hanging = Hanging(({"type": "http.response.start", "status": 200, "headers": kind},))

    async def ask(call: Call) -> AsyncGenerator[Part, None]:
        yield Part(hanging.begun if begun else ())
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(hanging, "ask", ask)

    async def script(client: Any) -> Any:
        return await client.post(COMPLETIONS, json={"model": "tiny", "prompt": "a"})

    answer = talk_to(Door(hanging, ServeConfig()), script)
    assert answer.status_code == (200 if begun else 500)
    assert answer.text.startswith("data: ") == begun
    assert "internal_error" in answer.text
    assert "secret" not in answer.text
    assert "secret" in caplog.text


def test_replicas_that_cannot_be_asked_are_none() -> None:
    class Away(Hanging):
        async def reports(self) -> Sequence[Report]:
            raise RuntimeError("no such cluster any more")

    door = Door(Away(()), ServeConfig())
    door.known = [Report(1, "ready", added([]))]
    asyncio.run(door.look())
    assert (door.state, door.known) == ("waiting", ())


def test_who_asks_too_long_keeps_what_was_known() -> None:
    class Slow(Hanging):
        async def reports(self) -> Sequence[Report]:
            raise TimeoutError

    door = Door(Slow(()), ServeConfig())
    door.known = [Report(1, "ready", added([]))]
    asyncio.run(door.look())
    assert door.state == "ready"
    door.ending = True
    assert door.state == "ending"


def test_engines_are_added_up() -> None:
    one = Stats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, Counters(1, 2, 3, 4, 5, 6, 7, 8))
    two = replace(one, waiting=100, block_bytes=3, totals=Counters(10))
    assert added([one, two]) == Stats(
        101, 4, 6, 8, 10, 12, 7, 16, 18, 20, Counters(11, 2, 3, 4, 5, 6, 7, 8)
    )
    assert added([]) == Stats(*[0] * 10, Counters())


def test_a_door_without_a_lock_is_not_opened(local: LocalReplicas) -> None:
    from open_mythos.errors import ConfigError

    with pytest.raises(ConfigError, match="--public"):
        build_server(Door(local, ServeConfig(host="0.0.0.0")))
    server = build_server(door := Door(local, ServeConfig(port=0)))
    server.handle_exit(15, None)
    assert door.state == "ending"
