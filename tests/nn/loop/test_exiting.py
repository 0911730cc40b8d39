"""The account of positions that leave, taken apart and put together."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.loop.exiting import Exiting, Leave, open_account
from open_mythos.nn.loop.exits.registry import EXITS, exit_named
from open_mythos.nn.loop.readout import LastState, join_readouts, open_readout
from open_mythos.nn.places import places_of


TEXTS = ["fixed:2", "act:0.7", "latent:1.2", "settled:1.2", "acceleration:2", "kl:0.5",
         "entropy:1.6", "stability:1", "gate:0.6"]  # fmt: skip


@pytest.fixture
def walk() -> tuple[Tensor, Tensor]:
    """States (T + 1, B, S, dim) and gate probabilities (T, B, S)."""
    return torch.randn(6, 3, 4, 16, dtype=torch.float64), torch.rand(5, 3, 4).double()


def predict(h: Tensor) -> Tensor:
    return h[..., :7].log_softmax(-1)


def test_without_an_exit_there_is_only_the_readout(
    tiny_config: Callable[..., MythosConfig], readout: str
) -> None:
    cfg, h = tiny_config(readout=readout), torch.randn(1, 2, 16)
    assert type(open_account(cfg, h)) is type(open_readout(cfg, h))


@pytest.mark.parametrize("text", TEXTS)
def test_rows_apart_are_rows_together(
    text: str, walk: tuple[Tensor, Tensor], tiny_config: Any, readout: str
) -> None:
    """Cut after any loop, gone on with, and joined: nothing that is remembered is lost."""
    cfg, (h, p) = tiny_config(readout=readout), walk
    rule = Leave(exit_named(text), predict)
    whole = open_account(cfg, h[0], rule)
    for t in range(5):
        front, back = whole.split([1, 2], h[t].split([1, 2]))
        whole = whole.step(h[t + 1], p[t], last=t == 4)[0]
        parts = [
            part.copy(part.state, torch.clone).step(state, chance, last=t == 4)[0]
            for part, state, chance in (
                (front, h[t + 1, :1], p[t, :1]),
                (back, h[t + 1, 1:], p[t, 1:]),
            )
        ]
        again = join_readouts(parts, h[t + 1])
        for name in ("halted", "loops", "value", "state"):
            assert torch.equal(getattr(again, name), getattr(whole, name))
        assert torch.equal(again.read(h[t + 1]), whole.read(h[t + 1]))
        assert isinstance(again, Exiting)
        whole = again
    assert {exit_named(other).name for other in TEXTS} == set(EXITS)


def test_what_was_read_stays_and_the_rest_is_read_at_the_end(
    walk: tuple[Tensor, Tensor], tiny_config: Any
) -> None:
    h, _ = walk
    some = torch.rand(5, 3, 4) < 0.3

    class At:
        def done(self, seen: Any) -> Tensor:
            return some[seen.loop - 1]

    account = open_account(tiny_config(readout="last"), h[0], Leave(_own(At()), predict))
    for t in range(5):
        account = account.step(h[t + 1], None, last=t == 4)[0]
    for b in range(3):
        for s in range(4):
            hits = some[:, b, s].nonzero().flatten().tolist()
            left = hits[0] + 1 if hits else 5
            assert torch.equal(account.value[b, s], h[left, b, s])
            assert int(account.loops[b, s]) == left
            assert bool(account.halted[b, s]) == bool(hits)


def _own(thing: Any) -> Any:
    from open_mythos.nn.loop.exits.registry import as_exit

    return as_exit(thing)


def test_the_last_loop_may_be_told_by_a_tensor(
    walk: tuple[Tensor, Tensor], tiny_config: Any, readout: str
) -> None:
    """Where rows differ in depth, and while training."""
    cfg, (h, p) = tiny_config(readout=readout), walk
    rule = Leave(exit_named("fixed:2"), predict)
    for last in (True, False):
        told = []
        for as_tensor in (False, True):
            account = open_account(cfg, h[0], rule).step(h[1], p[0], last=False)[0]
            final = torch.tensor(last).expand(3, 1) if as_tensor else last
            told.append(account.step(h[2], p[1], last=final)[0].value)
        assert torch.equal(*told)


def test_only_what_is_asked_for_is_asked_for(tiny_config: Any) -> None:
    h = torch.randn(1, 2, 16)
    calls: list[int] = []

    def count(state: Tensor) -> Tensor:
        calls.append(1)
        return predict(state)

    for text, asks, predictions in (("latent", False, 0), ("gate", True, 0), ("entropy", False, 1)):
        account = open_account(tiny_config(readout="last"), h, Leave(exit_named(text), count))
        assert account.asks == asks
        assert not account.fusable
        calls.clear()
        p = torch.full((1, 2), 0.1) if asks else None
        stepped = account.step(h, p, last=False)[0]
        assert len(calls) == predictions
        assert isinstance(stepped, Exiting)
        assert stepped.log_probs is None  # kept for exits that compare two
        assert isinstance(stepped.inner, LastState)


@pytest.mark.parametrize("text", TEXTS)
def test_positions_apart_are_positions_together(
    text: str, walk: tuple[Tensor, Tensor], tiny_config: Any, readout: str
) -> None:
    """Who has left is not asked any more; who is there says what it says among all."""
    cfg, (h, p) = tiny_config(readout=readout), walk
    rule = Leave(exit_named(text), predict)
    whole = some = open_account(cfg, h[0], rule)
    state = h[0]
    for t in range(5):
        going = ~whole.halted
        if not going.any():
            break
        state = torch.where(going.unsqueeze(-1), h[t + 1], state)  # frozen
        whole = whole.step(state, p[t], last=t == 4)[0]
        if t == 2:  # with everybody in between
            some = some.step(state, p[t], last=False)[0]
        else:
            places = places_of(going)
            here = some.take(places, places.take(some.state))
            here = here.step(places.take(state), places.take(p[t]), last=t == 4)[0]
            some = some.put(places, here, state)
        for name in ("halted", "loops", "state", "loop"):
            assert torch.equal(
                torch.as_tensor(getattr(some, name)), torch.as_tensor(getattr(whole, name))
            )
        torch.testing.assert_close(some.value, whole.value)
        front, back = some.split([1, 2], state.split([1, 2]))
        again = join_readouts([front, back], state)
        assert torch.equal(again.value, some.value)
        some = again if t == 3 else some
