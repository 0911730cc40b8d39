"""Queries of some positions: what they find is what they find among all."""

import math

import pytest
import torch
from torch import Tensor

from open_mythos.nn.attention.by_rows import by_rows, copies_pay, shelves_of
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.places import places_of
from open_mythos.nn.rotary import rotary
from open_mythos.ops.reference import attend_reference


def look(q: Tensor, seen: dict[str, Tensor], context: AttentionContext) -> Tensor:
    """The reference's own way with masks, grouped queries and causality."""
    return attend_reference(q, seen["k"], seen["v"], context.mask, 0.5, causal=context.causal)


def masks(kind: str, batch: int, length: int, keys: int) -> Tensor | None:
    itself = torch.arange(keys - length, keys)[:, None] == torch.arange(keys)
    shown = (torch.rand(batch, 1, length, keys) < 0.7) | itself
    additive = torch.zeros(batch, 1, length, keys).masked_fill(~shown, -math.inf)
    return {"none": None, "boolean": shown, "additive": additive, "one": additive[:1]}[kind]


@pytest.mark.parametrize("kind", ["none", "boolean", "additive", "one"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("length", "past"), [(5, 0), (4, 3), (1, 6)])
def test_some_queries_find_what_they_find_among_all(
    length: int, past: int, causal: bool, kind: str
) -> None:
    batch, keys = 5, past + length
    tables = rotary(torch.arange(past, keys), 4, 100.0)
    context = AttentionContext(tables, causal=causal, mask=masks(kind, batch, length, keys))
    q = torch.randn(batch, length, 4, 4)
    seen = {"k": torch.randn(batch, keys, 2, 4), "v": torch.randn(batch, keys, 2, 6)}
    whole = look(q, seen, context)
    for share in (0.2, 0.5, 0.9):
        active = torch.rand(batch, length) < share
        active[int(torch.randint(batch, ())), -1] = True
        active[1] = False
        places = places_of(active)
        if not places.count:
            continue
        found = by_rows(look, places.take(q), seen, context.at(places))
        torch.testing.assert_close(found[0], whole[active])
        turned = context.at(places).rotary.turn(places.take(q))
        torch.testing.assert_close(turned[0], tables.turn(q)[active])


def test_what_fills_a_row_up_breaks_no_gradient() -> None:
    """A softmax over nothing is NaN, and zero times that too."""
    active = torch.tensor([[True, False, True], [False, False, True], [False, False, False]])
    context = AttentionContext(rotary(torch.arange(3), 4, 100.0), mask=masks("boolean", 3, 3, 3))
    seen = {name: torch.randn(3, 3, 2, 4, requires_grad=True) for name in ("k", "v")}
    q = torch.randn(1, 3, 4, 4, requires_grad=True)
    by_rows(look, q, seen, context.at(places_of(active))).sum().backward()
    for tensor in (q, *seen.values()):
        assert bool(tensor.grad.isfinite().all())
    assert not seen["k"].grad[2].any()


def test_keys_are_copied_where_that_reads_less() -> None:
    assert copies_pay(1, 8, queries=1)
    assert not copies_pay(4, 8, queries=1)
    assert copies_pay(6, 8, queries=64)
    one = torch.zeros(8, 1, dtype=torch.bool)
    one[[0, 2, 4, 6]] = True
    assert shelves_of(places_of(one)).rows == tuple(range(8))
    more = torch.zeros(64, 1, dtype=torch.bool)
    more[[0, 40]] = True
    assert shelves_of(places_of(more)).rows == (0, 40)
    one[:] = torch.arange(8).unsqueeze(1) >= 4
    assert shelves_of(places_of(one)).rows == (4, 5, 6, 7)  # neighbours are a view
