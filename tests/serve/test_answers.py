"""Answers' log-probabilities, against a plain pass of the model: what lm-eval's client reads."""

import json
import math
from typing import Any

import pytest
import torch

from open_mythos.data.chat import end_of_turn
from open_mythos.serve.answers import LEAST


COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def scores(service: Any, ids: list[int], loops: int) -> torch.Tensor:
    """(len(ids) - 1, vocab): log-probabilities of what follows each token."""
    with torch.no_grad():
        logits = service.served.model(torch.tensor([ids]), n_loops=loops)
    return logits[0, :-1].log_softmax(-1)


@pytest.mark.parametrize("most", [0, 1])
def test_a_prompt_is_scored_as_one_pass_scores_it(
    build_service: Any, talk: Any, post: Any, most: int
) -> None:
    service = build_service()
    prompts = [torch.randint(0, 256, (size,)).tolist() for size in (2, 19, 40)]

    async def script(client: Any) -> Any:
        asked = {"prompt": prompts, "max_tokens": most, "echo": True, "logprobs": 1}
        return await post(client, COMPLETIONS, **asked, temperature=0, seed=1234, num_loops=3)

    choices = talk(service, script).json()["choices"]
    assert len(choices) == len(prompts)
    for prompt, choice in zip(prompts, choices, strict=True):
        told, expected = choice["logprobs"], scores(service, prompt, 3)
        own = expected[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
        assert told["token_logprobs"][0] is None
        assert told["top_logprobs"][0] is None
        found = told["token_logprobs"][1 : len(prompt)]
        assert found == pytest.approx(own.tolist(), abs=1e-4)
        assert len(told["token_logprobs"]) == len(told["tokens"]) == len(prompt) + most
        # As lm-eval asks whether a token is the greedy one: is it the best of the reported?
        greedy = [
            value == max(top.values())
            for value, top in zip(found, told["top_logprobs"][1 : len(prompt)], strict=True)
        ]
        assert greedy == (own == expected.max(-1).values).tolist()
        if most:
            assert told["token_logprobs"][-1] == max(told["top_logprobs"][-1].values())


def test_offsets_point_into_the_text(build_service: Any, talk: Any, post: Any) -> None:
    async def script(client: Any) -> Any:
        asked = {"prompt": "abc", "max_tokens": 8, "logprobs": 0, "logit_bias": {}}
        asked["logit_bias"] = {str(i): -100 for i in range(257) if not 97 <= i < 123}
        plain = await post(client, COMPLETIONS, **asked, seed=1)
        return plain.json(), (await post(client, COMPLETIONS, **asked, seed=1, echo=True)).json()

    plain, echoed = ([one["choices"][0]] for one in talk(build_service(), script))
    for [choice], start in ((plain, "abc"), (echoed, "")):
        told, text = choice["logprobs"], start + choice["text"]
        for token, at in zip(told["tokens"], told["text_offset"], strict=True):
            assert text[at : at + len(token)] == token
    assert echoed[0]["text"] == "abc" + plain[0]["text"]


def test_a_chats_tokens_are_its_bytes(build_service: Any, talk: Any, post: Any) -> None:
    service = build_service()
    tokenizer, raw_of = service.served.tokenizer, service.spellings.raw
    ends = {tokenizer.eos_id, end_of_turn(tokenizer)}
    others = [i for i in range(257) if len(raw_of(i) or b"") != 1 and i not in ends]

    async def script(client: Any) -> Any:
        asked = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 12}
        asked["logit_bias"] = {str(i): -100 for i in others}  # no mark of a turn inside of one
        return await post(client, CHAT, **asked, logprobs=True, top_logprobs=3, seed=2)

    [choice] = talk(service, script).json()["choices"]
    content = choice["logprobs"]["content"]
    shown = content if choice["finish_reason"] == "length" else content[:-1]
    raw = bytes(byte for one in shown for byte in one["bytes"] if len(one["bytes"]) == 1)
    assert choice["message"]["content"] == raw.decode("utf-8", "replace")
    for one in content:
        values = [top["logprob"] for top in one["top_logprobs"]]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert one["logprob"] <= values[0]
        assert math.fsum(math.exp(value) for value in values) <= 1 + 1e-6


def test_what_is_impossible_is_still_json(build_service: Any, talk: Any, post: Any) -> None:
    service = build_service()
    head = service.served.model.head
    with torch.no_grad():
        head.weight.mul_(1e5)  # differences beyond LEAST

    async def script(client: Any) -> Any:
        return await post(client, COMPLETIONS, prompt="abcdef", echo=True, logprobs=20)

    text = talk(service, script).text
    told = json.loads(text, parse_constant=pytest.fail)
    found = [v for v in told["choices"][0]["logprobs"]["token_logprobs"] if v is not None]
    assert min(found) >= LEAST


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_details_come_token_by_token_to_whoever_asks(
    build_service: Any, talk: Any, post: Any, path: str
) -> None:
    service = build_service()
    what = (
        {"prompt": "abc"}
        if path == COMPLETIONS
        else {"messages": [{"role": "user", "content": "a"}]}
    )
    asked = {**what, "max_tokens": 9, "seed": 4, "n": 2, "exit": "kl:0.02"}

    async def script(client: Any) -> Any:
        whole = await post(client, path, **asked, token_details=True)
        pieces = await post(client, path, **asked, token_details=True, stream=True)
        silent = await post(client, path, **asked, stream=True)
        return whole.json(), pieces.text, silent.text

    whole, pieces, silent = talk(service, script)
    assert "token_details" not in silent
    found: dict[int, list[Any]] = {0: [], 1: []}
    for line in pieces.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                found[choice["index"]] += choice["token_details"]
    for choice in whole["choices"]:
        told = choice["token_details"]
        assert told == found[choice["index"]]
        assert [one["loops"] for one in told] == choice["loops"]
        assert all(1 <= one["left_after"] <= one["loops"] for one in told)
        assert [one["token"] for one in told] == [service.spellings.text(o["id"]) for o in told]
