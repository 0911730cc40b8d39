"""Attention of some positions of each row to all keys of their row."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.cache import Entries
from open_mythos.nn.places import Places, Shelves


Look = Callable[[Tensor, Entries, AttentionContext], Tensor]


def copies_pay(some: int, every: int, queries: int) -> bool:
    """Whether the keys of `some` rows are better copied than those of `every` row looked at.

    One query per row over 8 rows of 1,024 keys took 1.0 ms as they were, and 0.46, 1.1 and 2.3 ms
    by a copy of 1, 2 and 4 of them (4 heads of 64, float32, one core): a copy of a row takes about
    four times as long as one query's look at it. 16 queries took 2.4 ms, by a copy of 4 rows 2.6.
    """
    look = 1.0 + queries / 5.0
    return some * (4.0 + look) <= every * look


def shelves_of(places: Places) -> Shelves:
    """The rows that attention looks at: those that ask, or all of them if that is cheaper."""
    shelves = places.shelves()
    some, every = len(shelves.rows), len(places.counts)
    if shelves.apart is None or copies_pay(some, every, shelves.most):
        return shelves
    return places.shelves(every=True)


def by_rows(look: Look, q: Tensor, seen: Entries, context: AttentionContext) -> Tensor:
    """What `look` finds for queries that stand in `context.places`.

    Args:
        look: Queries (R, M, H, d), entries (R, S, ...) and a context to (R, M, H, v).
        q: (1, N, H, d).
        seen: (B, S, ...) each, of all positions.
        context: With places.

    Returns:
        (1, N, H, v).
    """
    places = context.places
    assert places is not None
    shelves = shelves_of(places)
    shown = {name: shelves.of(entry) for name, entry in seen.items()}
    queries = q.squeeze(0)
    if shelves.slots is None:
        queries = queries.unflatten(0, (len(shelves.rows), shelves.most))
    else:
        queries = queries[shelves.slots]
    mask = visible(context, places, shelves, keys=next(iter(seen.values())).shape[1])
    found = look(queries, shown, replace(context, places=None, mask=mask, causal=False))
    found = found.flatten(0, 1)
    return (found if shelves.back is None else found[shelves.back]).unsqueeze(0)


def visible(
    context: AttentionContext, places: Places, shelves: Shelves, keys: int
) -> Tensor | None:
    """Which of `keys` keys each query on a shelf sees, (R, 1 or H, M, keys); None: all of them.

    What a row is filled up with sees what a position of the row would, so that no softmax is empty.
    """
    rows, length = shelves.rows, places.length
    where = places.where.unsqueeze(0) if shelves.slots is None else places.where[shelves.slots]
    where = where.view(len(rows), shelves.most)
    mask = context.mask
    if mask is not None:
        mask = mask.expand(len(places.counts), -1, -1, -1)
        at = where[:, None, :, None].expand(-1, mask.shape[1], -1, keys)
        mask = shelves.of(mask).gather(2, at)
    if not context.causal or length == 1:
        return mask
    every = torch.arange(keys, device=where.device)
    seen = (every <= keys - length + where.unsqueeze(-1)).unsqueeze(1)
    if mask is None:
        return seen
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, float("-inf"))
