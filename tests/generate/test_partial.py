"""A pass in two parts against whole passes; every loop of a position runs once."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.generate.partial import PartialPass
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.standing import Standing


Build = Callable[..., Any]
LOOPS = 5
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"attn_type": "mla"},
    {"kv": "first", "core_layers": 2},
    {"kv": "first", "attn_type": "mla", "injection": "hyper"},
    {"injection": "hyper", "core_layers": 2, "core_ffn": "dense", "last_norm": False},
    {
        "injection": "concat_linear",
        "initial_state": "noise",
        "prelude_norm": True,
        "coda_input": "norm",
    },
    {"untied_router": True, "untied_attention": True, "loops_beyond": "cycle"},
    {"core_ffn": "dense", "core_layers": 2, "core_lora_rank": 2},
    {"halted": "freeze", "loop_norm": "sandwich", "block_norm": "pre_post"},
)


@pytest.fixture
def build(tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]) -> Build:
    def make(**changes: Any) -> Any:
        cfg = tiny_config(**{"readout": "last", **changes})
        return randomised(OpenMythos(cfg)).double().eval()

    return make


def prompt(length: int) -> Tensor:
    return torch.randint(0, 37, (1, length))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("first", [1, 3])
@torch.no_grad()
def test_what_is_finished_is_what_whole_passes_say(
    build: Build, kind: dict[str, Any], first: int
) -> None:
    """Several rounds, of which only a part is kept."""
    model, ids, cached = build(**kind), prompt(15), 4
    cache = model.new_cache(1, 20)
    model(ids[:, :4], LOOPS, cache)
    part = PartialPass(model, cache, LOOPS, first)
    for begun, kept in ((3, 3), (1, 1), (4, 2), (2, 1)):
        for i in range(begun):
            part.begin(ids[:, cached + i], say=bool(i % 2))
        got = part.finish()
        want = model(ids[:, : cached + begun], LOOPS)[0, cached:]
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
        assert cache.length == cached + begun
        cached += kept
        cache.truncate(cached)
    again = model(ids[:, cached:], LOOPS, cache)  # and the cache is as any other
    want = model(ids, LOOPS)[:, cached:]
    torch.testing.assert_close(again, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@torch.no_grad()
def test_what_a_draft_says_from_the_start_is_what_a_shallow_pass_says(
    build: Build, kind: dict[str, Any]
) -> None:
    model, ids = build(**kind), prompt(5)
    part = PartialPass(model, model.new_cache(1, 8), LOOPS, 2)
    said = [part.begin(ids[:, i]) for i in range(5)]
    want = model(ids, 2)[0]
    torch.testing.assert_close(torch.cat(said), want, rtol=1e-9, atol=1e-9)  # type: ignore[arg-type]


@torch.no_grad()
def test_every_loop_of_a_position_runs_once(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = build(), prompt(6)
    part = PartialPass(model, model.new_cache(1, 8), LOOPS, 2)
    ran: list[tuple[int, int]] = []
    advance, ticks = model.recurrent.advance, part._constants.ticks

    def counted(now: Standing, tick: Any, *more: Any, **options: Any) -> Any:
        ran.append((next(t for t, known in enumerate(ticks) if known is tick), now.h.shape[1]))
        return advance(now, tick, *more, **options)

    monkeypatch.setattr(model.recurrent, "advance", counted)
    for i in range(4):
        part.begin(ids[:, i])
    part.finish()
    positions = [sum(width for t, width in ran if t == loop) for loop in range(LOOPS)]
    assert positions == [4] * LOOPS
    assert len(ran) == 4 * 2 + 3


def test_all_that_a_loop_hands_on_is_carried_over() -> None:
    """A field more is one that `PartialPass.finish` has to put together."""
    assert {f.name for f in fields(Standing)} == {"h", "e", "readout", "frozen", "shared"}


@pytest.mark.parametrize(
    ("changes", "first", "message"),
    [
        ({}, 5, "at least 1, and fewer"),
        ({}, 0, "at least 1, and fewer"),
        ({"readout": "act"}, 1, "readout is 'act'.*'last'"),
        ({"kv": "last"}, 1, "kv is 'last'.*'per_loop' or 'first'"),
    ],
    ids=str,
)
def test_passes_that_cannot_be_taken_apart_are_refused(
    build: Build, changes: dict[str, Any], first: int, message: str
) -> None:
    model = build(**changes)
    with pytest.raises(InputError, match=message):
        PartialPass(model, model.new_cache(1, 8), LOOPS, first)


def test_ranks_in_lockstep_are_refused(build: Build) -> None:
    model = build()
    model.recurrent.lockstep = True
    with pytest.raises(InputError, match="other ranks"):
        PartialPass(model, model.new_cache(1, 8), LOOPS, 1)
