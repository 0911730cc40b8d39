"""Requests that stay on the device, against each request alone: any company, any lag."""

import random
from typing import Any

import pytest
import torch

from open_mythos.engine.engine import Engine
from open_mythos.engine.request import Event, Request
from open_mythos.engine.residents import Residents
from open_mythos.generate.params import SamplingParams
from open_mythos.kernels.columns import STOPS
from open_mythos.model.mythos import OpenMythos


DESIGNS: dict[str, dict[str, Any]] = {
    "frozen": {"halted": "freeze", "readout": "last"},
    "frozen, halting, mla": {"halted": "freeze", "readout": "act", "attn_type": "mla"},
    "first keys": {"kv": "first", "readout": "act_last"},
    "first keys, two layers": {"kv": "first", "readout": "last", "core_layers": 2},
    "going on": {"halted": "continue", "readout": "last"},
    "going on, halting": {"halted": "continue", "readout": "act"},
}
EXITS = {
    "one kind": ("latent:0.3", "latent:0.1", None),
    "kinds": ("kl:0.05", "act:0.9", "stability:2", "fixed:2", None),
    "none": (None,),
}


def asked(luck: random.Random, exits: tuple[str | None, ...]) -> Request:
    """Mostly what can stay on the device; now and then what cannot."""
    prompt = [*[1, 2, 3, 4, 5, 6, 7, 8][: luck.choice([0, 4, 8])], luck.randrange(37)]
    warm: dict[str, Any] = luck.choice([
        {"temperature": 0.0},
        {"temperature": 0.0, "stop_token_ids": tuple(luck.sample(range(37), 6))},
        {"temperature": 1.3, "seed": luck.randrange(2**40)},
        {"temperature": 0.8, "top_p": 0.8, "top_k": 9, "seed": -luck.randrange(9), "n": 2},
        {"temperature": 0.0, "presence_penalty": 1.5},
        {"temperature": 0.0, "logprobs": 1},
    ])  # fmt: skip
    params = SamplingParams(max_tokens=luck.randint(1, 12), **warm)
    loops = luck.choice([4, 4, 3]) if len(exits) > 1 else 4
    return Request(prompt, params, loops, luck.choice(exits))


Told = dict[tuple[int, int], list[Event]]


def eventful(engine: Engine, requests: list[Request], luck: random.Random) -> tuple[Told, set[int]]:
    """Events by request and continuation, while some rest, go on, or are cancelled at random."""
    pending = [(luck.randint(0, 12), i) for i in range(len(requests))]
    numbers: dict[int, int] = {}
    told: Told = {}
    gone, resting = set(), {-1}
    for step in range(4000):
        for when, i in pending:
            if when == step:
                numbers[engine.add(requests[i])] = i
        for number in numbers:
            chance = luck.random()
            if chance < 0.03:
                engine.hold(number)
                resting.add(number)
            elif chance < 0.3 and number in resting:
                engine.hold(number, still=False)
                resting.discard(number)
            elif chance > 0.995 and engine.cancel(number):
                gone.add(numbers[number])
        for event in engine.step():
            told.setdefault((numbers[event.request], event.choice), []).append(event)
        if step > 12 and not engine.scheduler.tracks and not engine.busy:
            break
    assert not engine.scheduler.tracks
    assert engine.stats.used == engine.stats.lanes == engine.stats.running == 0
    return told, gone


@pytest.mark.parametrize(("name", "exits"), [
    ("frozen", "one kind"),
    ("frozen", "none"),
    ("frozen, halting, mla", "kinds"),
    ("first keys", "one kind"),
    ("first keys, two layers", "kinds"),
    ("going on", "one kind"),
    ("going on, halting", "none"),
])  # fmt: skip
def test_any_schedule_says_what_each_request_says_alone(
    build: Any, sizes: Any, name: str, exits: str
) -> None:
    model: OpenMythos = build(**DESIGNS[name])
    luck = random.Random()
    requests = [asked(luck, EXITS[exits]) for _ in range(6)]
    plain = Engine(model, settings=sizes(blocks=99, resident=0))
    want = [plain.complete([request])[0] for request in requests]
    for _ in range(2):
        settings = sizes(
            block_size=(size := luck.choice([2, 4])),
            blocks=-(-22 // size) + luck.randint(0, 20),
            rows=luck.randint(1, 9),
            stride=luck.randint(1, 4),
            resident=luck.randint(1, 3),
        )
        engine = Engine(model, settings=settings)
        told, gone = eventful(engine, requests, luck)
        for i, choices in enumerate(want):
            for choice, one in enumerate(choices):
                events = told[i, choice]
                said = tuple(event.token for event in events if event.token is not None)
                if i in gone:
                    assert said == one.tokens[: len(said)]
                    continue
                assert (said, events[-1].finish) == (one.tokens, one.finish)
                assert tuple(event.loops for event in events) == one.loops


@pytest.mark.parametrize("exit", [None, "latent:0.3", "kl:0.05"])
def test_tokens_are_those_of_generate_and_come_from_rounds(
    build: Any, ask: Any, alone: Any, sizes: Any, exit: str | None
) -> None:
    model = build(halted="freeze", readout="last")
    engine = Engine(model, settings=sizes(resident=2))
    requests = [ask([i, 7, i], 9, 4, exit) for i in range(4)]
    read: list[int] = []
    collect = engine.residents.collect  # type: ignore[union-attr]

    def noted() -> Any:
        said = collect()
        read.extend(token for _, token, *_ in said)
        return said

    engine.residents.collect = noted  # type: ignore[method-assign, union-attr]
    said = engine.complete(requests)
    assert [list(one.tokens) for (one,) in said] == [alone(model, r) for r in requests]
    assert len(read) == 4 * 8  # all but those that follow prompts


def test_reads_and_loops_are_told_as_by_the_host(build: Any, ask: Any, sizes: Any) -> None:
    model = build(halted="continue", readout="last")
    requests = [
        ask([i, 7], 6, 4, exit) for i, exit in enumerate(("latent:0.3", None, "latent:1e9"))
    ]
    found = []
    for resident in (0, 2):
        engine = Engine(model, settings=sizes(resident=resident))
        for request in requests:
            engine.add(request)
        found.append(sorted(engine.run(), key=lambda event: event.request))
    assert found[0] == found[1]
    assert len({event.read for event in found[0]}) > 1


def test_rounds_are_launched_before_the_first_is_read(build: Any, ask: Any, sizes: Any) -> None:
    settings = sizes(resident=3, prompts_at_once=False)
    engine = Engine(build(halted="freeze", readout="last"), settings=settings)
    residents = engine.residents
    assert residents is not None
    engine.add(ask([1, 2], 9, 2))
    said, launched = 0, 0
    while engine.busy:
        before = engine.counters.turns
        said += sum(event.token is not None for event in engine.step())
        launched += engine.counters.turns - before if residents.busy else 0
        if residents.busy and launched == 3 * 2:
            break
    assert said == 1  # the token behind the prompt: nobody has looked yet
    list(engine.run())
    assert engine.counters.tokens == 9


def test_who_ends_on_the_host_alone_is_dropped_from_what_is_under_way(
    build: Any, ask: Any, sizes: Any
) -> None:
    engine = Engine(build(readout="last"), settings=sizes(resident=3))
    first, second = engine.add(ask([1, 2], 15)), engine.add(ask([3, 4], 15))
    for _ in range(8):
        engine.step()
    assert engine.cancel(first)
    events = list(engine.run())
    assert [event.finish for event in events if event.request == first] == ["cancelled"]
    assert events[-1].finish == "length"
    assert sum(event.request == second for event in events) > 5


@pytest.mark.parametrize(("sampling", "welcome"), [
    ({}, True),
    ({"temperature": 1.0, "top_p": 0.5}, True),
    ({"stop_token_ids": tuple(range(STOPS))}, True),
    ({"stop_token_ids": tuple(range(STOPS + 1))}, False),
    ({"frequency_penalty": 0.5}, False),
    ({"logprobs": 0}, False),
    ({"min_tokens": 2}, False),
    ({"logit_bias": {1: 1.0}}, False),
])  # fmt: skip
def test_who_needs_the_host_between_tokens_does_not_stay(
    build: Any, ask: Any, sizes: Any, sampling: Any, welcome: bool
) -> None:
    engine = Engine(build(), settings=sizes(resident=1))
    engine.add(ask([1, 2], 3, **sampling))
    ((writer, track),) = zip(
        engine._writers.values(), engine.scheduler.tracks.values(), strict=True
    )
    assert engine.residents is not None
    assert engine.residents.welcomes(track, writer) == welcome


def test_loops_with_weights_of_their_own_stay_on_the_host(build: Any, ask: Any, sizes: Any) -> None:
    engine = Engine(build(untied_attention=True), settings=sizes(resident=1))
    assert isinstance(engine.residents, Residents)
    engine.add(ask([1, 2], 3))
    list(engine.run())
    assert not engine.residents.busy


def test_what_is_no_number_ends_with_an_error_and_spoils_nobody(
    build: Any, ask: Any, alone: Any, sizes: Any
) -> None:
    model = build(readout="last")
    request = ask([1, 2, 3, 4, 5, 6, 7, 8], 6)
    want = alone(model, request)
    engine = Engine(model, settings=sizes(blocks=6, resident=2))
    engine.add(request)
    events = []
    kept = model.embed.weight.detach().clone()
    for event in engine.run():
        events.append(event)
        if len(events) == 3:
            with torch.no_grad():
                model.embed.weight.fill_(torch.nan)
    assert events[-1].finish == "error"
    assert len(events) <= 6
    with torch.no_grad():
        model.embed.weight.copy_(kept)
    engine.refresh()
    engine.add(request)
    assert [event.token for event in engine.run()] == want


def test_who_stays_may_take_the_blocks_of_who_was_about_to_enter(
    build: Any, ask: Any, alone: Any, sizes: Any
) -> None:
    """Two prompts are read at once; blocks taken ahead for the first are missing for the second."""
    model = build(halted="freeze")
    settings = sizes(block_size=2, blocks=7, rows=3, chunk=8, resident=2, prompts_at_once=True)
    engine = Engine(model, settings=settings)
    requests = [ask([3, 1, 4, 1], 5), ask([5, 9, 2, 6], 5), ask([7], 3)]
    said = engine.complete(requests)
    assert engine.stats.preemptions > 0
    assert [list(one.tokens) for (one,) in said] == [alone(model, r) for r in requests]
