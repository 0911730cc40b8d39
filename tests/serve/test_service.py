"""Answers over HTTP, against the engine's and the model's own word on the same request."""

import asyncio
import json
from typing import Any

import pytest
import torch

from open_mythos.engine.engine import Engine
from open_mythos.engine.request import Request
from open_mythos.engine.settings import EngineConfig
from open_mythos.generate.params import SamplingParams


COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def alone(service: Any, prompt: list[int], loops: int | None = None, **sampling: Any) -> Any:
    """What an engine with nobody else in it says."""
    sizes = EngineConfig(blocks=64, block_size=8, rows=4, chunk=32)
    engine = Engine(service.served.model, service.served.tokenizer, sizes)
    [found] = engine.complete([Request(prompt, SamplingParams(**sampling), loops)])
    return found


def events(text: str) -> list[Any]:
    """The JSON of server-sent events; the last must be the end."""
    lines = [line for line in text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_completion_is_what_the_engine_says_alone(
    build_service: Any, talk: Any, post: Any
) -> None:
    service = build_service()
    prompts = [list(torch.randint(0, 256, (3 + i,)).tolist()) for i in range(3)]

    async def script(client: Any) -> Any:
        asked = {"prompt": prompts, "max_tokens": 9, "seed": 5, "n": 2, "num_loops": 3}
        return await post(client, COMPLETIONS, **asked)

    answer = talk(service, script).json()
    expected = [one for p in prompts for one in alone(service, p, 3, max_tokens=9, seed=5, n=2)]
    assert [c["index"] for c in answer["choices"]] == list(range(6))
    assert [c["text"] for c in answer["choices"]] == [one.text for one in expected]
    assert [c["loops"] for c in answer["choices"]] == [list(one.loops) for one in expected]
    assert [c["finish_reason"] for c in answer["choices"]] == [one.finish for one in expected]
    usage = answer["usage"]
    assert usage["prompt_tokens"] == 3 + 4 + 5
    assert usage["completion_tokens"] == sum(len(one.tokens) for one in expected)
    assert usage["loops"] == sum(sum(one.loops) for one in expected)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_a_stream_is_the_whole_in_pieces(
    build_service: Any, talk: Any, post: Any, path: str
) -> None:
    asked = {"prompt": "abc"} if path == COMPLETIONS else {"messages": HELLO}
    asked |= {"max_tokens": 12, "seed": 3, "n": 2, "stop": ["e"]}
    asked |= {"logprobs": 2} if path == COMPLETIONS else {"logprobs": True, "top_logprobs": 2}

    async def script(client: Any) -> Any:
        whole = await post(client, path, **asked)
        options = {"include_usage": True}
        stream = await post(client, path, **asked, stream=True, stream_options=options)
        return whole.json(), stream

    whole, stream = talk(build_service(), script)
    assert stream.headers["content-type"].startswith("text/event-stream")
    pieces = events(stream.text)
    assert pieces[-1]["choices"] == []
    assert pieces[-1]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        mine = [p["choices"][0] for p in pieces[:-1] if p["choices"][0]["index"] == choice["index"]]
        assert [one["finish_reason"] for one in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        assert [loops for one in mine for loops in one["loops"]] == choice["loops"]
        if path == CHAT:
            assert [one["delta"].get("role") for one in mine] == ["assistant"] + [None] * (
                len(mine) - 1
            )
            assert "".join(m["delta"]["content"] for m in mine) == choice["message"]["content"]
            told = [entry for one in mine for entry in one["logprobs"]["content"]]
            assert told == choice["logprobs"]["content"]
        else:
            assert "".join(one["text"] for one in mine) == choice["text"]
            for name, values in choice["logprobs"].items():
                assert [v for one in mine for v in one["logprobs"][name]] == values


def test_efforts_are_loops(build_service: Any, talk: Any, post: Any) -> None:
    async def script(client: Any) -> Any:
        found = []
        for effort in ("low", "medium", "high"):
            asked = {"prompt": "x", "max_tokens": 3, "reasoning_effort": effort}
            found.append((await post(client, COMPLETIONS, **asked)).json()["choices"][0]["loops"])
        asked = {"prompt": "x", "max_tokens": 3, "exit": "fixed:2"}
        return [*found, (await post(client, COMPLETIONS, **asked)).json()["choices"][0]["loops"]]

    assert [set(loops) for loops in talk(build_service(), script)] == [{1}, {2}, {4}, {2}]


def test_json_is_json(build_service: Any, talk: Any, post: Any) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"enum": [1, 22]}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    async def script(client: Any) -> Any:
        return await post(client, CHAT, messages=HELLO, response_format=form, max_tokens=40)

    [choice] = talk(build_service(), script).json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert json.loads(choice["message"]["content"])["a"] in (1, 22)


def test_no_template_no_chat(build_service: Any, talk: Any, post: Any) -> None:
    async def script(client: Any) -> Any:
        return await post(client, CHAT, messages=HELLO)

    answer = talk(build_service(template=False), script)
    assert answer.status_code == 400
    assert "chat template" in answer.json()["error"]["message"]


def test_an_answer_that_takes_too_long_is_given_up(
    build_service: Any, talk: Any, post: Any, hold: Any
) -> None:
    service = build_service(seconds=0.05)
    release = hold(service.front.engine, 16)
    asked = {"prompt": "abc", "max_tokens": 64, "n": 8, "ignore_eos": True}

    async def script(client: Any) -> Any:
        whole = await post(client, COMPLETIONS, **asked)
        stream = await post(client, COMPLETIONS, **asked, stream=True)
        release()
        await service.front.drain()
        return whole, stream

    whole, stream = talk(service, script)
    assert whole.status_code == 504
    assert whole.json()["error"]["code"] == "timeout"
    last = stream.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
    assert service.front.engine.stats.used == 0


def test_too_many_are_told_to_come_again(
    build_service: Any, talk: Any, post: Any, hold: Any
) -> None:
    service = build_service(sizes={"rows": 1, "queue": 2})
    release = hold(service.front.engine)

    async def script(client: Any) -> Any:
        asked = {"prompt": "abc", "max_tokens": 30, "n": 2, "ignore_eos": True}
        posts = [asyncio.ensure_future(post(client, COMPLETIONS, **asked)) for _ in range(4)]
        await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
        release()
        return await asyncio.gather(*posts)

    answers = talk(service, script)
    refused = [one for one in answers if one.status_code == 503]
    assert 0 < len(refused) < 4
    assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
    assert {one.status_code for one in answers} == {200, 503}
    assert service.front.engine.stats.used == 0


def test_what_breaks_inside_is_a_500_that_says_nothing(
    build_service: Any, talk: Any, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = build_service()

    def broken() -> Any:
        raise MemoryError("secret")

    async def script(client: Any) -> Any:
        monkeypatch.setattr(service.front.engine, "step", broken)
        first = await post(client, COMPLETIONS, prompt="a")
        stream = await post(client, COMPLETIONS, prompt="a", stream=True)
        return first, stream, await client.get("/health"), await client.get("/ready")

    first, later, health, ready = talk(service, script)
    assert first.status_code == 500
    assert first.json()["error"]["type"] == "server_error"
    assert "secret" not in first.text
    assert later.status_code == 503
    assert (health.status_code, ready.status_code) == (503, 503)
