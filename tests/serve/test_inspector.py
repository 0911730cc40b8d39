"""The inspector, against a pass of the model and against what a stream said of its own tokens."""

import asyncio
import threading
from typing import Any

import pytest
import torch

from open_mythos.serve import inspector
from open_mythos.serve.inspector import known_exits


INSPECT, COMPLETIONS = "/v1/inspect", "/v1/completions"


def test_a_look_agrees_with_passes_of_so_many_loops(
    build_service: Any, talk: Any, post: Any
) -> None:
    service = build_service()
    model = service.served.model
    prompt, rest = torch.randint(0, 256, (9,)).tolist(), torch.randint(0, 256, (4,)).tolist()

    async def script(client: Any) -> Any:
        asked = {"prompt": prompt, "continuation": rest, "num_loops": 3, "top": 4, "first": 8}
        return (await post(client, INSPECT, **asked)).json()

    told = talk(service, script)
    assert (told["num_loops"], told["prompt_tokens"], told["total_tokens"]) == (3, 9, 13)
    assert [one["id"] for one in told["positions"]] == [prompt[-1], *rest]
    ids = torch.tensor([prompt + rest])
    for t in range(1, 4):
        with torch.no_grad():
            p = model(ids, n_loops=t)[0, 8:].softmax(-1)
        for at, one in enumerate(told["positions"]):
            best = p[at].topk(4)
            assert [token for token, _ in one["top"][t - 1]] == best.indices.tolist()
            assert [v for _, v in one["top"][t - 1]] == pytest.approx(
                best.values.tolist(), abs=2e-6
            )
            for token, _ in one["top"][t - 1]:
                assert told["spellings"][str(token)] == service.spellings.text(token)
            if at < 4:
                assert one["next"][t - 1] == pytest.approx(float(p[at, rest[at]]), abs=2e-6)
    assert told["positions"][-1]["next"] is None
    with torch.no_grad():
        record = model(ids, n_loops=3, return_output=True)
    by_loop = told["by_loop"]
    assert by_loop["experts"]["load"] == record.router_load.tolist()
    assert by_loop["state_rms"] == pytest.approx(record.state_rms.tolist(), abs=2e-6)
    used = record.loops_used[0, 8:]
    assert [one["loops"] for one in told["positions"]] == used.tolist()
    shares = [(used <= t).double().mean().item() for t in (1, 2, 3)]
    assert by_loop["left"] == pytest.approx(shares, abs=2e-6)
    halting = record.halting[:, 0, 8:]
    assert by_loop["halting"] == pytest.approx(halting.mean(1).tolist(), abs=2e-6)
    assert told["positions"][2]["halting"] == pytest.approx(halting[:, 2].tolist(), abs=2e-6)
    engine, cache = service.front.engine, told["cache"]
    assert cache["bytes"] == 13 * cache["bytes_per_token"]
    assert cache["held_bytes"] == 2 * engine.stats.block_bytes  # blocks of 8 positions
    with torch.no_grad():
        kept = model.new_cache(1, 13, n_loops=3)
        model(ids, n_loops=3, kv_cache=kept)
    slots = [*kept.prelude, *kept.recurrent, *kept.coda]
    entries = [tensor for slot in slots for tensor in slot.committed().values()]
    assert cache["bytes"] == sum(entry.nbytes for entry in entries)


@pytest.mark.parametrize("exit", [None, "kl:0.01", "fixed:2"])
def test_a_look_sees_the_loops_that_the_stream_told(
    build_service: Any, talk: Any, post: Any, exit: str | None
) -> None:
    async def script(client: Any) -> Any:
        how = {"prompt": "some text", "num_loops": 4, **({"exit": exit} if exit else {})}
        asked = {**how, "max_tokens": 12, "seed": 3, "ignore_eos": True}
        said = await post(client, COMPLETIONS, **asked, token_details=True)
        plain = await post(client, COMPLETIONS, **asked)
        details = said.json()["choices"][0]["token_details"]
        ids = [one["id"] for one in details]
        look = await post(client, INSPECT, **how, continuation=ids, first=8)
        return said.json(), plain.json(), details, look.json()

    said, plain, details, look = talk(build_service(), script)
    assert len(details) == 12
    assert [one["loops"] for one in details] == said["choices"][0]["loops"]
    assert [one["left_after"] for one in details] == [
        one["loops"] for one in look["positions"][:12]
    ]
    del said["choices"][0]["token_details"]
    for one in (said, plain):
        del one["id"], one["created"]
    assert said == plain  # who does not ask is told nothing new


def test_wrong_questions_are_refused_by_name(build_service: Any, talk: Any, post: Any) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "give a prompt, or messages"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "one of the two"),
        ({"prompt": "x" * 21}, "looks into 20"),
        ({"prompt": "x" * 15, "continuation": "y" * 6}, "looks into 20"),
        ({"prompt": "x", "num_loops": 5}, "at most 4"),
        ({"prompt": "x", "exit": "kl:-1"}, "kl"),
        ({"prompt": "x", "exit": "oracle"}, "oracle"),
        ({"prompt": [300]}, "300"),
        ({"prompt": "x", "top": 21}, "top"),
        ({"prompt": "x", "topp": 2}, "top"),
    ]

    async def script(client: Any) -> Any:
        return [await post(client, INSPECT, **body) for body, _ in wrong]

    for answer, (body, words) in zip(
        talk(build_service(inspect_tokens=20), script), wrong, strict=True
    ):
        assert answer.status_code == 400, body
        assert words in answer.json()["error"]["message"], body


def test_conversations_are_looked_into_too(build_service: Any, talk: Any, post: Any) -> None:
    messages = [{"role": "user", "content": "hi"}]

    async def script(client: Any) -> Any:
        look = await post(client, INSPECT, messages=messages, continuation="yes")
        chat = await post(client, "/v1/chat/completions", messages=messages, max_tokens=1)
        none = await post(client, INSPECT, prompt="", continuation="a")
        return look.json(), chat.json(), none

    look, chat, none = talk(build_service(), script)
    assert look["prompt_tokens"] == chat["usage"]["prompt_tokens"]
    assert [one["token"] for one in look["positions"][-3:]] == list("yes")
    assert none.json()["prompt_tokens"] == 1  # a text that has not begun starts from its end


def test_streams_go_on_between_looks_and_looks_come_one_at_a_time(
    build_service: Any, talk: Any, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = build_service()
    plain, threads, inside = inspector.look_through, set(), [0]

    def watched(*given: Any) -> Any:
        threads.add(threading.current_thread().name)
        inside[0] += 1
        assert inside == [1]
        found = plain(*given)
        inside[0] -= 1
        return found

    monkeypatch.setattr(inspector, "look_through", watched)

    async def script(client: Any) -> Any:
        ask = {"prompt": "abc", "max_tokens": 20, "seed": 5, "temperature": 0}
        lone = (await post(client, COMPLETIONS, **ask)).json()
        looks = [post(client, INSPECT, prompt="text" * i) for i in range(1, 6)]
        beside, *told = await asyncio.gather(post(client, COMPLETIONS, **ask), *looks)
        return lone, beside.json(), told

    lone, beside, told = talk(service, script)
    assert beside["choices"] == lone["choices"]
    assert [one.status_code for one in told] == [200] * 5
    assert len(threads) == 1
    assert threads.pop().startswith("engine")


def test_who_leaves_before_his_turn_costs_nothing(
    build_service: Any, talk: Any, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = build_service()
    looked: list[int] = []
    plain = inspector.look_through

    def watched(model: Any, ids: list[int], *given: Any) -> Any:
        looked.append(len(ids))
        return plain(model, ids, *given)

    monkeypatch.setattr(inspector, "look_through", watched)

    async def script(client: Any) -> Any:
        held = asyncio.Event()
        release = threading.Event()
        loop = asyncio.get_running_loop()
        service.front.tell(lambda: (loop.call_soon_threadsafe(held.set), release.wait(20)))
        await held.wait()  # the engine is busy
        first = asyncio.create_task(post(client, INSPECT, prompt="a" * 3))
        second = asyncio.create_task(post(client, INSPECT, prompt="b" * 5))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        release.set()
        return (await second).status_code

    assert talk(service, script) == 200
    assert looked == [5]


def test_what_is_no_number_is_a_failure_and_the_engine_goes_on(
    build_service: Any, talk: Any, post: Any
) -> None:
    service = build_service()
    head = service.served.model.head.weight

    async def script(client: Any) -> Any:
        with torch.no_grad():
            kept = head[5].clone()
            head[5] = float("nan")
        broken = await post(client, INSPECT, prompt="abc")
        with torch.no_grad():
            head[5] = kept
        return broken, await post(client, INSPECT, prompt="abc")

    broken, sound = talk(service, script)
    assert (broken.status_code, sound.status_code) == (500, 200)
    assert broken.json()["error"]["code"] == "internal_error"


def test_exits_are_those_that_the_model_answers_to(build_model: Any) -> None:
    halting, last = build_model(readout="act"), build_model(readout="last")
    with torch.no_grad():
        last.recurrent.act.halt.bias.zero_()  # as nobody trained it
    names = [{one["name"] for one in known_exits(model, 4)} for model in (halting, last)]
    assert names[0] - names[1] == {"act", "gate"}
    for model, known in zip((halting, last), names, strict=True):
        for name in known:
            with torch.no_grad():
                model(torch.tensor([[1, 2, 3]]), 4, exit=name)
