"""Some positions side by side, and the way back."""

import torch
from hypothesis import given, strategies as st

from open_mythos.nn.places import places_of


MASKS = st.integers(1, 4).flatmap(
    lambda rows: st.integers(1, 5).flatmap(
        lambda length: st.lists(
            st.lists(st.booleans(), min_size=length, max_size=length),
            min_size=rows,
            max_size=rows,
        )
    )
)


@given(mask=MASKS)
def test_what_is_taken_and_put_back_is_what_the_mask_says(mask: list[list[bool]]) -> None:
    active = torch.tensor(mask)
    places, table = places_of(active), torch.randn(*active.shape, 3)
    part = places.take(table)
    assert torch.equal(part[0], table[active])
    assert places.counts == tuple(active.sum(1).tolist())
    assert places.count == int(active.sum())
    assert places.whole == active.numel()
    where = active.nonzero()[:, 1]
    assert torch.equal(places.where, where)
    assert places.reach == int(where.sum())
    want = table.masked_scatter(active.unsqueeze(-1), part + 1)
    assert torch.equal(places.put(table, part + 1), want)
    by_row = torch.randn(len(mask), 1)
    assert torch.equal(places.told(by_row)[0], by_row.expand(active.shape)[active])


@given(mask=MASKS, every=st.booleans())
def test_shelves_hold_each_rows_own_positions(mask: list[list[bool]], every: bool) -> None:
    active = torch.tensor(mask)
    places = places_of(active)
    if not places.count:
        return
    shelves = places.shelves(every=every)
    rows = range(len(mask)) if every else [row for row in range(len(mask)) if any(mask[row])]
    assert shelves.rows == tuple(rows)
    assert shelves.most == max(places.counts)
    names = torch.arange(places.count)
    shape = (len(shelves.rows), shelves.most)
    shelf = names.view(shape) if shelves.slots is None else names[shelves.slots]
    assert shelf.shape == shape
    row_of = places.index // places.length
    for i, row in enumerate(shelves.rows):
        own = names[row_of == row].tolist()
        assert shelf[i, : len(own)].tolist() == own
        assert set(shelf[i, len(own) :].tolist()) <= (set(own[-1:]) or set(names.tolist()))
    back = shelf.flatten() if shelves.back is None else shelf.flatten()[shelves.back]
    assert torch.equal(back, names)


def test_places_are_found_among_more_of_them() -> None:
    more = torch.rand(3, 6) < 0.7
    some = more & (torch.rand(3, 6) < 0.5)
    known = places_of(more).index
    assert torch.equal(known[places_of(some).among(known)], places_of(some).index)
