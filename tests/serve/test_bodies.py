"""Bodies: what clients send is taken, what is wrong is refused, and types are not guessed."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from open_mythos.serve.bodies import ChatBody, CompletionBody, documented


COMPLETION = {"model": "m", "prompt": "x"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def completion(**changes: Any) -> CompletionBody:
    return CompletionBody.model_validate_json(json.dumps(COMPLETION | changes))


def chat(**changes: Any) -> ChatBody:
    return ChatBody.model_validate_json(json.dumps(CHAT | changes))


@pytest.mark.parametrize("prompt", ["", "a", [1, 2], ["a", ""], [[1], [2, 3]]])
def test_a_prompt_is_a_text_or_tokens_or_several(prompt: Any) -> None:
    assert completion(prompt=prompt).prompt == prompt


@pytest.mark.parametrize("prompt", [None, 1, {}, [], [[]], [1, "a"], [[1], "a"], [-1], [1.5],
                                    [True], [2**31]])  # fmt: skip
def test_anything_else_is_none(prompt: Any) -> None:
    with pytest.raises(ValidationError):
        completion(prompt=prompt)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": "1"}, {"temperature": -1}, {"temperature": 3}, {"max_tokens": True},
        {"max_tokens": "5"}, {"max_tokens": 1.5}, {"max_tokens": 10**30}, {"n": 0}, {"top_p": 0},
        {"stop": [""]}, {"stop": ["a"] * 17}, {"logit_bias": {"x": 1}}, {"logit_bias": {"1": 101}},
        {"stream": 1}, {"num_loops": 0}, {"reasoning_effort": "most"}, {"seed": 2**63},
        {"response_format": {"type": "yaml"}}, {"max_token": 5}, {"tools": 5}, {"model": ""},
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [completion, chat])
def test_wrong_types_and_ranges_and_names_are_refused(make: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**changes)


def test_infinities_and_halves_of_characters_are_refused() -> None:
    for text in ('{"model": "m", "prompt": "x", "temperature": NaN}',
                 '{"model": "m", "prompt": "x", "temperature": Infinity}',
                 '{"model": "m", "prompt": "\\ud800"}', "[" * 100_000):  # fmt: skip
        with pytest.raises(ValidationError):
            CompletionBody.model_validate_json(text)
    with pytest.raises(ValidationError):
        CompletionBody.model_validate_json(b'{"model": "m", "prompt": "\xff"}')


def test_fields_that_clients_send_are_taken() -> None:
    told = {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto",
            "temperature": None, "stop": None, "n": None, "stream_options": None}  # fmt: skip
    assert completion(**told).user == chat(**told).user == "u"


def test_a_message_may_come_in_pieces() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].text == "ab"
    with pytest.raises(ValidationError):
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])


def test_the_document_names_the_body() -> None:
    [told] = documented(ChatBody)["requestBody"]["content"].values()
    assert told["schema"]["$ref"].endswith("/ChatBody")
