"""Bodies that are wrong, large or slow end in a clear refusal, and the server goes on."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest


COMPLETIONS = "/v1/completions"
JSON = {"content-type": "application/json"}
GOOD = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 1}).encode()


def test_malformed_bodies_are_400(build_service: Any, talk: Any) -> None:
    bodies = [b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe",
              b'{"model": "tiny", "prompt": "\xff"}',
              b'{"model": "tiny", "prompt": "\\ud800"}', b"[" * 50_000, GOOD + b"x",
              GOOD.replace(b"1", b"1e400"), GOOD.replace(b"1", b"9" * 5000)]  # fmt: skip

    async def script(client: Any) -> Any:
        told = []
        for path in (COMPLETIONS, "/v1/chat/completions"):
            told += [await client.post(path, content=one, headers=JSON) for one in bodies]
        return told, await client.post(COMPLETIONS, content=GOOD, headers=JSON)

    told, good = talk(build_service(), script)
    assert {one.status_code for one in told} == {400}
    assert all(one.json()["error"]["message"] for one in told)
    assert good.status_code == 200


@pytest.mark.parametrize("sort", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_taken(build_service: Any, talk: Any, sort: str) -> None:
    async def script(client: Any) -> Any:
        return await client.post(COMPLETIONS, content=GOOD, headers={"content-type": sort})

    assert talk(build_service(), script).status_code == 415


def test_a_large_body_is_refused_before_it_is_read(build_service: Any, talk: Any) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(10_000):
            taken += 1000
            yield b"x" * 1000

    async def script(client: Any) -> Any:
        said = await client.post(COMPLETIONS, content=b"x" * 10_000_000, headers=JSON)
        return said, await client.post(COMPLETIONS, content=endless(), headers=JSON)

    said, unsaid = talk(build_service(body_bytes=5000), script)
    for answer in (said, unsaid):
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
    assert taken <= 8000


def test_a_slow_body_is_given_up(build_service: Any, talk: Any) -> None:
    async def slow() -> AsyncIterator[bytes]:
        for byte in GOOD:
            yield bytes([byte])
            await asyncio.sleep(0.02)

    async def script(client: Any) -> Any:
        return await client.post(COMPLETIONS, content=slow(), headers=JSON)

    answer = talk(build_service(body_seconds=0.1), script)
    assert answer.status_code == 408
    assert answer.json()["error"]["code"] == "body_timeout"
