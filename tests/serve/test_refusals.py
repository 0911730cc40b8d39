"""Refusals have OpenAI's form, name the field, and echo little of what a stranger sent."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from open_mythos.serve.bodies import CompletionBody
from open_mythos.serve.refusals import Refusal, broken, from_validation, invalid


def wrong(text: str | bytes) -> Refusal:
    with pytest.raises(ValidationError) as caught:
        CompletionBody.model_validate_json(text)
    return from_validation(caught.value, CompletionBody.model_fields)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": "x"}, "model", "missing_parameter"),
        ({"model": "m", "prompt": "x", "max_tokens": "5"}, "max_tokens", "invalid_value"),
        ({"model": "m", "prompt": [1, "x"]}, "prompt", "invalid_value"),
        ({"model": "m", "prompt": "x", "max_token": 5}, "max_token", "unknown_parameter"),
        ([], None, "invalid_value"),
    ],
)
def test_the_field_is_named(body: Any, param: str | None, code: str) -> None:
    told = wrong(json.dumps(body))
    assert told.status == 400
    assert (told.param or "").split(".")[0] == (param or "")
    assert told.code == code
    assert set(told.body["error"]) == {"message", "type", "param", "code"}


def test_the_right_name_is_suggested() -> None:
    body = json.dumps({"model": "m", "prompt": "x", "num_loop": 2})
    assert "'num_loops'" in wrong(body).message


def test_what_was_sent_is_not_echoed_at_length() -> None:
    name = "x" * 100_000
    for text in (json.dumps({"model": "m", "prompt": "x", name: 1}),
                 json.dumps({"model": "m", "prompt": "x", "reasoning_effort": name}),
                 json.dumps({"model": "m", "prompt": "x", "logit_bias": {name: 1}}),
                 "{" + name, b"\xff" + name.encode()):  # fmt: skip
        assert len(json.dumps(wrong(text).body)) < 3000


def test_headers_say_when_to_come_back() -> None:
    answer = Refusal(429, "slow down", wait=1.2, hang_up=True).response
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["connection"] == "close"
    assert Refusal(401, "who?").response.headers["www-authenticate"] == "Bearer"
    assert invalid("no").kind == "invalid_request_error"
    assert broken().kind == "server_error"
