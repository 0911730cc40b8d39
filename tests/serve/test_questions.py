"""Questions: each field of a body arrives in the engine's request, or is refused by its name."""

from typing import Any

import pytest

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.chat import encode_prompt, end_of_turn
from open_mythos.serve.bodies import ChatBody, CompletionBody
from open_mythos.serve.questions import DEFAULT_TOKENS, Reader
from open_mythos.serve.refusals import Refusal
from open_mythos.serve.settings import ServeConfig


READER = Reader(ByteTokenizer(), 6, 100, ServeConfig(prompts=4, choices=8))
HELLO = [{"role": "user", "content": "hello"}]
LARGE = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["y" * 70_000]}}}
NO_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}


def completion(prompt: Any = "x", **changes: Any) -> Any:
    return READER.completion(CompletionBody(model="m", prompt=prompt, **changes), "ns")


def chat(messages: Any = HELLO, **changes: Any) -> Any:
    return READER.chat(ChatBody.model_validate({"model": "m", "messages": messages, **changes}))


def test_fields_arrive() -> None:
    told = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "presence_penalty": 1.0,
            "frequency_penalty": -1.0, "repetition_penalty": 1.5, "seed": -3, "n": 2,
            "min_tokens": 1, "max_tokens": 5, "ignore_eos": True}  # fmt: skip
    question = completion("ab", **told, logit_bias={"7": -100.0}, stop="q", stop_token_ids=[3])
    [request] = question.requests
    assert {name: getattr(request.sampling, name) for name in told} == told
    assert request.sampling.logit_bias == {7: -100.0}
    assert (request.sampling.stop, request.sampling.stop_token_ids) == (("q",), (3,))
    assert (list(request.prompt), request.namespace) == ([97, 98], "ns")
    assert question.choices == 2


def test_what_is_not_said_has_openais_meaning() -> None:
    [request] = completion().requests
    assert request.sampling.max_tokens == DEFAULT_TOKENS
    assert (request.sampling.temperature, request.n_loops, request.exit) == (1.0, None, None)
    assert chat().requests[0].sampling.max_tokens is None
    assert completion("").requests[0].prompt == [ByteTokenizer().eos_id]


def test_log_probabilities_of_the_prompt_only_with_echo() -> None:
    for logprobs, echo, chosen, prompt in ((2, True, 2, 2), (2, None, 2, None), (None, True, None,
                                           None), (0, True, 0, 0)):  # fmt: skip
        [request] = completion([5, 6], logprobs=logprobs, echo=echo).requests
        assert (request.sampling.logprobs, request.prompt_logprobs) == (chosen, prompt)


def test_a_chat_is_the_templates_tokens_and_ends_with_the_turn() -> None:
    tokenizer = ByteTokenizer()
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    for content in ("hello", parts):
        [request] = chat([{"role": "user", "content": content}]).requests
        assert request.prompt == encode_prompt(tokenizer, HELLO)
        assert end_of_turn(tokenizer) in request.sampling.stop_token_ids
    system, developer = (
        chat([{"role": role, "content": "be brief"}, *HELLO]).requests[0].prompt
        for role in ("system", "developer")
    )
    assert system == developer


def test_depth_is_loops_or_a_share_of_them() -> None:
    found = [completion(reasoning_effort=e).requests[0].n_loops for e in ("low", "medium", "high")]
    assert found == [2, 3, 6]
    assert completion(num_loops=5).requests[0].n_loops == 5
    assert completion(exit="kl:0.1").requests[0].exit == "kl:0.1"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"num_loops": 7}, "num_loops"),
        ({"num_loops": 2, "reasoning_effort": "low"}, "reasoning_effort"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"n": 9}, "n"),
        ({"prompt": ["a"] * 5}, "prompt"),
        ({"stream_options": {}}, "stream_options"),
        ({"max_tokens": 100}, None),
        ({"prompt": "x" * 100, "max_tokens": 1}, None),
        ({"min_tokens": 5, "max_tokens": 2}, None),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "echo": True}, "echo"),
        ({"response_format": LARGE}, "response_format"),
        ({"response_format": NO_SCHEMA}, "response_format"),
        ({"stream": True, "echo": True, "logprobs": 1, "n": 2}, "n"),
    ],
)
def test_what_cannot_be_had_is_refused_by_its_name(
    changes: dict[str, Any], param: str | None
) -> None:
    told = {"prompt": "x", **changes}
    with pytest.raises(Refusal) as caught:
        READER.completion(CompletionBody.model_validate({"model": "m", **told}))
    assert (caught.value.status, caught.value.param) == (400, param)


def test_tools_may_be_named_but_not_given() -> None:
    plain = chat(tools=[], functions=None, tool_choice="auto", function_call="none")
    assert plain.requests == chat().requests
    for name in ("tools", "functions"):
        with pytest.raises(Refusal) as caught:
            chat(**{name: [{"type": "function", "function": {"name": "f"}}]})
        assert (caught.value.status, caught.value.param) == (400, name)


def test_a_chat_refuses_two_lengths_and_tops_of_nothing() -> None:
    for changes in ({"max_tokens": 1, "max_completion_tokens": 1}, {"top_logprobs": 1}):
        with pytest.raises(Refusal) as caught:
            chat(**changes)
        assert caught.value.param in changes
