"""The official client against a real server on a port of this machine."""

import socket
import time
from typing import Any

import pytest


openai = pytest.importorskip("openai")
KEY = "a-key-of-this-test-only"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(build_service: Any, listening: Any) -> Any:
    service = build_service(keys={"tester": KEY})
    with (
        listening(service) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as found,
    ):
        yield found
    assert service.front.engine.stats.used == 0


def test_completions_plain_and_streamed(client: Any) -> None:
    asked = {"model": "tiny", "prompt": "abc", "max_tokens": 10, "seed": 4, "n": 2, "stop": ["z"],
             "logprobs": 2, "extra_body": {"num_loops": 2}}  # fmt: skip
    whole = client.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert whole.usage.loops == 2 * whole.usage.completion_tokens
    texts = ["", ""]
    for piece in client.completions.create(**asked, stream=True):
        texts[piece.choices[0].index] += piece.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert all("z" not in text for text in texts)
    scores = whole.choices[0].logprobs
    assert len(scores.token_logprobs) == len(scores.tokens) == len(scores.top_logprobs)


def test_chats_plain_and_streamed(client: Any) -> None:
    asked = {"model": "tiny", "messages": HELLO, "max_completion_tokens": 10, "seed": 4, "n": 2,
             "logprobs": True, "top_logprobs": 2, "reasoning_effort": "low",
             "user": "u", "store": False, "metadata": {"a": "b"}}  # fmt: skip
    whole = client.chat.completions.create(**asked)
    texts, ends, usage = ["", ""], ["", ""], None
    stream = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    for piece in stream:
        usage = piece.usage or usage
        for choice in piece.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    assert whole.usage.loops == whole.usage.completion_tokens
    assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2


def test_models_and_errors_are_the_clients_own(client: Any) -> None:
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    asked = {"model": "tiny", "prompt": "x"}
    with pytest.raises(openai.NotFoundError):
        client.completions.create(**asked | {"model": "gpt-9"})
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**asked, max_tokens=10**6)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="another").completions.create(**asked)


def test_a_stream_that_is_left_ends(build_service: Any, listening: Any, hold: Any) -> None:
    service = build_service(keys={"tester": KEY})
    release = hold(service.front.engine, 16)
    with listening(service) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            asked = {"prompt": ["ab"] * 4, "max_tokens": 60, "n": 2, "stream": True}
            stream = client.completions.create(
                model="tiny", **asked, extra_body={"ignore_eos": True}
            )
            next(iter(stream))
            stream.close()
        end = time.monotonic() + 20
        while service.limits.in_flight and time.monotonic() < end:
            time.sleep(0.01)
        assert service.limits.in_flight == 0
        release()
    counters = service.front.engine.counters
    assert counters.finished == 8
    assert counters.tokens < 8 * 60


def test_a_reader_that_stops_holds_nobody_up(build_service: Any, listening: Any) -> None:
    service = build_service(keys={"tester": KEY})
    with listening(service) as url:
        host, port = url.removeprefix("http://").split(":")
        lazy = socket.create_connection((host, int(port)))
        body = b'{"model": "tiny", "prompt": "a", "max_tokens": 60, "n": 8, "stream": true}'
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        lazy.sendall(head.encode() + body)
        with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            for _ in range(3):
                client.completions.create(model="tiny", prompt="x", max_tokens=3)
        lazy.close()
