"""Engines against `model.generate` for each request alone: any company, any order, any depth."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.engine.engine import Engine
from open_mythos.engine.request import Completion, Event, Request
from open_mythos.errors import BusyError, InputError
from open_mythos.generate.params import Constraint, SamplingParams
from open_mythos.model.mythos import OpenMythos


def serve(engine: Engine, arrivals: list[tuple[int, Request]]) -> list[Completion]:
    """Completions of requests of one continuation that arrive at steps; all blocks free then."""
    pending = sorted(enumerate(arrivals), key=lambda item: item[1][0])
    numbers: dict[int, int] = {}
    events: dict[int, list[Event]] = {}
    for step in range(4000):
        while pending and pending[0][1][0] <= step:
            place, (_, request) = pending.pop(0)
            numbers[place] = engine.add(request)
        for event in engine.step():
            events.setdefault(event.request, []).append(event)
        if not pending and not engine.busy:
            break
    assert engine.scheduler.pool.used == 0
    assert engine.stats.lanes == engine.stats.running == engine.stats.waiting == 0
    return [Completion.of(events[numbers[i]]) for i in range(len(arrivals))]


DEPTHS: list[tuple[int, str | None]] = [
    (4, "latent:0.3"),
    (3, None),
    (4, "kl:0.05"),
    (2, "act:0.9"),
    (3, "stability:1"),
    (4, "acceleration:0.5"),
    (4, "fixed:2"),
]
DESIGNS: dict[str, dict[str, Any]] = {
    "gqa, frozen": {"halted": "freeze", "readout": "last"},
    "mla, frozen, two layers": {"attn_type": "mla", "halted": "freeze", "core_layers": 2},
    "first keys": {"kv": "first", "readout": "act_last"},
    "going on": {"halted": "continue", "readout": "act"},
    "own maps": {"core_ffn": "dense", "core_lora_rank": 2, "halted": "freeze"},
    "own weights": {"untied_attention": True, "untied_router": True, "halted": "freeze"},
    "streams, noise": {
        "injection": "hyper",
        "initial_state": "noise",
        "halted": "freeze",
        "coda_input": "linear",
    },
}


@pytest.mark.parametrize("name", DESIGNS)
def test_any_schedule_says_what_each_request_says_alone(
    build: Any, ask: Any, alone: Any, sizes: Any, name: str
) -> None:
    model = build(**DESIGNS[name])
    start = torch.randint(0, 37, (12,)).tolist()
    first = list(DESIGNS).index(name)
    depths = [
        DEPTHS[(first + i) % len(DEPTHS)] for i in range(3)
    ]  # few, so that prompts are shared
    requests = [
        ask([*start[: luck.choice([0, 9, 12])], *luck.choices(range(37), k=2)],
            luck.randint(2, 9), *luck.choice(depths))
        for luck in map(random.Random, range(10))
    ]  # fmt: skip
    want = [alone(model, request) for request in requests]
    ample = Engine(model, settings=sizes(blocks=99, rows=10, chunk=64))
    said = serve(ample, [(i % 3, request) for i, request in enumerate(requests)])
    assert [list(one.tokens) for one in said] == want
    assert ample.stats.reused > 0

    @settings(max_examples=5)
    @given(st.data())
    def any_schedule(data: st.DataObject) -> None:
        size = data.draw(st.sampled_from([2, 4]))
        engine = Engine(
            model,
            settings=sizes(
                block_size=size,
                blocks=-(-24 // size) + data.draw(st.integers(0, 12)),
                rows=data.draw(st.integers(1, 5)),
                chunk=data.draw(st.integers(4, 12)),
                buckets=data.draw(st.sampled_from([(), (4, 8, 16)])),
                stride=data.draw(st.integers(1, 4)),
                resident=data.draw(st.integers(0, 2)),
                prompts_at_once=data.draw(st.booleans()),
            ),
        )
        which = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=8))
        arrivals = [(data.draw(st.integers(0, 12)), requests[i]) for i in which]
        for i, said in zip(which, serve(engine, arrivals), strict=True):
            assert list(said.tokens) == want[i]
            assert said.finish == "length"
            assert max(said.loops) <= (requests[i].n_loops or 4)

    any_schedule()


def test_a_crowd_on_few_blocks_makes_room_and_loses_nothing(
    build: Any, ask: Any, alone: Any, sizes: Any
) -> None:
    model = build(halted="freeze")
    requests = [ask([i, 2, 3], 12, 2, "latent:0.4") for i in range(5)]
    engine = Engine(model, settings=sizes(blocks=8, block_size=2, rows=5))
    said = serve(engine, [(0, request) for request in requests])
    assert [list(s.tokens) for s in said] == [alone(model, request) for request in requests]
    assert engine.stats.preemptions > 0


def test_early_leavers_spare_their_loops(build: Any, ask: Any, sizes: Any) -> None:
    model = build(halted="freeze", readout="last")
    spent = []
    for exit in (None, "latent:1e9"):
        engine = Engine(model, settings=sizes())
        said = serve(engine, [(0, ask([1, 2, 3], 5, 4, exit)), (1, ask([4, 5], 5, 4, exit))])
        spent.append((engine.counters.positions, {n for one in said for n in one.loops}))
    assert spent == [(4 * (7 + 6), {4}), (7 + 6, {1})]


def test_where_keys_go_on_every_loop_is_run(build: Any, ask: Any, sizes: Any) -> None:
    model = build(halted="continue", readout="last")
    engine = Engine(model, settings=sizes())
    serve(engine, [(0, ask([1, 2, 3], 5, 4, "latent:1e9"))])
    assert engine.counters.positions == 4 * 7


@pytest.mark.parametrize("changes", [
    {"halted": "continue", "readout": "last"},
    {"halted": "continue", "readout": "act", "act_threshold": 1.0},
    {"halted": "freeze", "readout": "last"},
])  # fmt: skip
def test_each_token_tells_after_which_loop_it_was_read(
    build: Any, ask: Any, sizes: Any, changes: Any
) -> None:
    model = build(**changes)
    engine = Engine(model, settings=sizes())
    prompts = [torch.randint(0, 37, (size,)).tolist() for size in (3, 7, 5, 2)]
    # Without an exit nobody is read after one loop: p, below 1, is less than its threshold.
    exits = ["kl:0.02", None, "latent:0.4", "latent:1e9"]
    numbers = [engine.add(ask(p, 6, 4, e)) for p, e in zip(prompts, exits, strict=True)]
    events = list(engine.run())
    seen = set()
    for number, prompt, exit in zip(numbers, prompts, exits, strict=True):
        said = [event for event in events if event.request == number]
        ids = [*prompt, *(event.token for event in said)]
        with torch.no_grad():
            record = model(torch.tensor([ids]), 4, exit=exit, return_output=True)
        used = record.loops_used[0, len(prompt) - 1 : -1].tolist()
        assert [event.read for event in said] == used
        going_on = changes["halted"] == "continue"
        assert [event.loops for event in said] == ([4] * 6 if going_on else used)
        seen |= set(used)
    assert len(seen) > 1


def test_draws_follow_from_the_seed_whatever_the_company(build: Any, ask: Any, sizes: Any) -> None:
    model = build()
    warm = {"temperature": 1.5, "seed": 11, "top_p": 0.9}
    request = ask([1, 2, 3], 8, 2, **warm)
    lone = serve(Engine(model, settings=sizes()), [(0, request)])[0]
    others = [ask([i, 5], 9, 3, temperature=1.0, top_k=5, presence_penalty=0.5) for i in range(3)]
    crowd = [(0, others[0]), (0, others[1]), (3, request), (5, others[2])]
    assert serve(Engine(model, settings=sizes(blocks=10)), crowd)[2] == lone
    assert len(set(lone.tokens)) > 2
    reseeded = ask([1, 2, 3], 8, 2, **warm | {"seed": 4})
    assert serve(Engine(model, settings=sizes()), [(0, reseeded)])[0].tokens != lone.tokens


def test_continuations_differ_and_share_their_prompt(build: Any, ask: Any, sizes: Any) -> None:
    engine = Engine(build(), settings=sizes(blocks=40))
    ((a, b, c),) = engine.complete([ask(list(range(9)), 6, 2, temperature=2.0, n=3, seed=1)])
    assert len({a.tokens, b.tokens, c.tokens}) == 3
    assert engine.stats.reused == 2 * 8
    assert engine.counters.finished == 3


def test_prompts_are_thought_of_token_by_token(
    build: Any, ask: Any, sizes: Any, alone: Any
) -> None:
    model, prompt = build(), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    engine = Engine(model, settings=sizes())
    list(_run(engine, ask(prompt, 1, 3)))  # so that something is cached
    request = ask(prompt, 2, 3, logprobs=2)
    asked = Request(prompt, request.sampling, 3, prompt_logprobs=1)
    events = list(_run(engine, asked))
    scores = model(torch.tensor([prompt]), 3)[0].log_softmax(-1).detach()
    first, *rest = events[0].prompt
    assert first is None
    for at, told in enumerate(rest):
        assert told is not None
        assert told.token == prompt[at + 1]
        assert told.logprob == pytest.approx(float(scores[at, prompt[at + 1]]), abs=1e-6)
        assert told.top[0][0] == int(scores[at].argmax())
    assert [event.token for event in events] == alone(model, request)
    said = events[0].logprobs
    assert said is not None
    assert said.logprob == pytest.approx(float(scores[-1].max()), abs=1e-6)
    assert len(said.top) == 2


def _run(engine: Engine, request: Request) -> Iterator[Event]:
    engine.add(request)
    return engine.run()


def test_no_tokens_at_all_are_an_end_behind_the_prompt(build: Any, ask: Any, sizes: Any) -> None:
    engine = Engine(build(), settings=sizes())
    (event,) = _run(engine, Request([1, 2, 3], ask([1], 0).sampling, 2, prompt_logprobs=0))
    assert (event.token, event.finish, len(event.prompt)) == (None, "length", 3)


def test_text_comes_as_it_is_certain_and_ends_where_told(
    tiny_config: Any, randomised: Any, sizes: Any
) -> None:
    words = ByteTokenizer()
    model = OpenMythos(tiny_config(vocab_size=words.vocab_size)).double().eval()
    only = dict.fromkeys(words.encode("ab"), 100.0)
    sampling = SamplingParams(max_tokens=16, logit_bias=only, stop=("aab", "bba"), seed=2)
    engine = Engine(model, words, sizes())
    ((said,),) = engine.complete([Request(words.encode("x"), sampling)])
    whole = words.decode(said.tokens)
    assert set(whole) == {"a", "b"}
    assert said.finish == "stop"
    assert whole in (said.text + "aab", said.text + "bba")


def test_a_text_has_the_form_that_was_asked_for(tiny_config: Any, sizes: Any) -> None:
    pytest.importorskip("llguidance")
    words = ByteTokenizer()
    model = OpenMythos(tiny_config(vocab_size=words.vocab_size)).double().eval()
    form = Constraint("regex", "(ab){2,3}c")
    engine = Engine(model, words, sizes(blocks=40))
    sampling = SamplingParams(max_tokens=16, constraint=form, n=3, seed=1)
    (said,) = engine.complete([Request(words.encode("x"), sampling)])
    assert {one.text for one in said} <= {"ababc", "abababc"}
    assert {one.finish for one in said} == {"stop"}
    with pytest.raises(InputError, match="constraint"):
        engine.check(Request([1], SamplingParams(constraint=Constraint("regex", "("))))


def test_cancelled_requests_end_and_leave_no_trace(build: Any, ask: Any, sizes: Any) -> None:
    engine = Engine(build(), settings=sizes(rows=1))
    going, waiting = engine.add(ask([1, 2], 9)), engine.add(ask([3, 4], 9))
    for _ in range(5):
        engine.step()
    assert engine.cancel(going)
    assert engine.cancel(waiting)
    assert not engine.cancel(waiting)
    events = engine.step()
    assert [(e.request, e.finish) for e in events] == [(going, "cancelled"), (waiting, "cancelled")]
    assert not engine.busy
    assert engine.stats.used == engine.stats.running == engine.stats.waiting == 0


def test_who_rests_gets_nothing_until_he_goes_on(
    build: Any, ask: Any, alone: Any, sizes: Any
) -> None:
    model, request = build(), ask([1, 2], 6)
    engine = Engine(model, settings=sizes())
    number = engine.add(request)
    engine.hold(number)
    assert list(engine.run()) == []
    engine.hold(number, still=False)
    events = engine.run()
    first = next(events)
    engine.hold(number)
    rest = list(events)
    assert len(rest) <= 1
    engine.hold(number, still=False)
    rest += list(engine.run())
    assert [event.token for event in (first, *rest)] == alone(model, request)


def test_a_full_queue_is_busy_and_complete_waits_for_room(build: Any, ask: Any, sizes: Any) -> None:
    engine = Engine(build(), settings=sizes(queue=2))
    for i in range(2):
        engine.add(ask([i], 2))
    with pytest.raises(BusyError, match=r"engine\.queue is 2"):
        engine.add(ask([3], 2))
    with pytest.raises(InputError, match="run"):
        engine.complete([ask([3], 2)])
    list(engine.run())
    assert len(engine.complete([ask([i], 2) for i in range(7)])) == 7


def test_what_is_no_number_ends_with_an_error_and_spoils_nobody(
    build: Any, ask: Any, alone: Any, sizes: Any
) -> None:
    model = build()
    request = ask([1, 2, 3, 4, 5, 6, 7, 8], 3)
    want = alone(model, request)
    engine = Engine(model, settings=sizes(blocks=6))
    kept = model.embed.weight[36].clone()
    with torch.no_grad():
        model.embed.weight[36] = torch.nan  # the head's row too: one logit is none
    (event,) = _run(engine, ask([36, 2, 3, 4, 5, 6], 3))
    assert event.finish == "error"
    with torch.no_grad():
        model.embed.weight[36] = kept
    assert engine.stats.idle == 0
    assert [event.token for event in _run(engine, request)] == want


def test_weights_change_between_requests_only(build: Any, ask: Any, alone: Any, sizes: Any) -> None:
    model, request = build(), ask([1, 2, 3, 4, 5, 6], 4)
    engine = Engine(model, settings=sizes())
    engine.add(request)
    with pytest.raises(InputError, match="between"):
        engine.refresh()
    list(engine.run())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.1)
    engine.refresh()
    assert [event.token for event in _run(engine, request)] == alone(model, request)


def test_stats_count_what_was_done(build: Any, ask: Any, sizes: Any) -> None:
    engine = Engine(build(readout="last"), settings=sizes())
    engine.add(ask([1, 2, 3], 4, 2))
    engine.step()
    now = engine.stats
    assert (now.running, now.lanes, now.used, now.waiting) == (1, 3, 1, 0)
    list(engine.run())
    done = engine.stats.totals
    assert (done.requests, done.finished, done.tokens, done.loops) == (1, 1, 4, 8)
    assert (done.read, done.positions) == (6, 12)
    assert engine.stats.block_bytes == engine.runner.stages.pages.block_bytes
