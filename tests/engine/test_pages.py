"""Pages against caches of rows: attention through block tables says the same."""

from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.engine.pages import Glance, Pages, Reach, View, nowhere
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.block import TransformerBlock
from open_mythos.nn.cache import LayerCache
from open_mythos.nn.rotary import Rotary, rotary
from open_mythos.ops import paged
from open_mythos.ops.paged import Blocks, cuts_of


SIZE, BLOCKS = 3, 9


def context(mask: Tensor) -> AttentionContext:
    return AttentionContext(Rotary(torch.empty(0), torch.empty(0)), causal=False, mask=mask)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's kernels in its interpreter, which serves CPU tensors where there is no GPU."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("kernels are compiled here: tests/engine/test_graphs.py runs them")
    monkeypatch.setattr(paged, "reads_blocks", lambda *_: True)


@torch.no_grad()
@pytest.mark.parametrize("together", [True, False])
def test_rows_see_their_own_text_in_scattered_blocks(
    tiny_config: Any, attn_type: str, together: bool
) -> None:
    cfg = tiny_config(attn_type=attn_type, prelude_layers=2)
    block = TransformerBlock(cfg).double()
    pages = Pages(cfg, BLOCKS, SIZE, 3, torch.empty(0, dtype=torch.float64))
    for store in pages.around.values():
        store.normal_()  # others' entries, which nobody may see
    tables = torch.randperm(BLOCKS)[:6].view(2, 3) + 1  # two requests, eight positions each
    x = torch.randn(2, 8, cfg.dim, dtype=torch.float64)
    cache = LayerCache(cfg.cache_widths, 2, 8, dtype=torch.float64)
    want, _ = block.run(x, AttentionContext(rotary(torch.arange(8), cfg.rope_dim, 1e4)), cache)

    def call(positions: list[int]) -> Tensor:
        """Those positions of both requests at once."""
        rows = [(request, at) for request in range(2) for at in positions]
        where = torch.tensor([at for _, at in rows])
        write = torch.tensor([int(tables[r, at // SIZE]) * SIZE + at % SIZE for r, at in rows])
        seen = torch.arange(9) <= where.unsqueeze(1)
        n = len(positions)
        if together and n > 1:
            glances = [
                Glance(slice(r * n, r * n + n), tables[r : r + 1], context(part[None, None]))
                for r, part in enumerate(seen.split(n))
            ]
        else:
            picked = tables[[r for r, _ in rows]]
            glances = [Glance(slice(0, 2 * n), picked, context(seen[:, None, None]))]
        slot = pages.prelude(1, View(write, glances))
        angles = rotary(where.unsqueeze(1), cfg.rope_dim, 1e4)
        given = torch.stack([x[r, at] for r, at in rows]).unsqueeze(1)
        said, trace = block.run(given, AttentionContext(angles), slot)
        assert not trace.new
        return said.view(2, n, -1)

    got = torch.cat([call([0, 1, 2, 3, 4]), call([5]), call([6, 7])], dim=1)
    assert torch.allclose(got, want, atol=1e-12)
    other = pages.around["k" if attn_type == "gqa" else "c_kv"].unflatten(0, (-1, BLOCKS + 2))
    mine = other[1, tables[0]].flatten(0, 1)[:8]
    kept = cache.store["k" if attn_type == "gqa" else "c_kv"][0]
    assert torch.allclose(mine, kept, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("where", ["plain", "triton"])
def test_blocks_are_read_where_they_lie(
    tiny_config: Any, attn_type: str, where: str, request: pytest.FixtureRequest
) -> None:
    """Copies made of blocks against blocks read through their tables, alone and in pieces."""
    if where == "triton":
        request.getfixturevalue("kernels")
    cfg = tiny_config(attn_type=attn_type, kv="per_loop")
    attn = TransformerBlock(cfg).attn
    pages = Pages(cfg, BLOCKS, SIZE, 3, torch.empty(0))
    tables, loops = torch.randperm(BLOCKS)[:6].view(2, 3) + 1, torch.tensor([0, 2, 2, 1, 1, 1, 1])
    lines, places = torch.tensor([1, 0, 1, 0, 0, 0, 0]), torch.tensor([4, 7, 0, 2, 3, 5, 6])
    write = tables[lines, places // SIZE] * SIZE + places % SIZE
    seen = torch.arange(9) <= places.unsqueeze(1)
    copies: list[Glance | Reach] = [Glance(slice(0, 3), tables[lines[:3]],
                                           context(seen[:3, None, None]))]  # fmt: skip
    reaches: list[Glance | Reach] = []
    none, cuts = torch.zeros(1, dtype=torch.int64), torch.tensor(cuts_of([(0, 4)]))
    reaches += [Reach(slice(0, 3), Blocks(tables, lines[:3], none, places[:3] + 1))]
    if attn_type == "gqa":
        copies += [Glance(slice(3, 7), tables[:1], context(seen[None, None, 3:]))]
        reaches += [Reach(slice(3, 7), Blocks(tables, lines[3:], none, places[3:] + 1, cuts))]
    rows = copies[-1].rows.stop
    x = torch.randn(rows, 1, cfg.dim)
    angles = AttentionContext(rotary(places[:rows].unsqueeze(1), cfg.rope_dim, 1e4))
    said = []
    for store in pages.inside.values():
        store.normal_()
    for glances in (copies, reaches):
        slot = pages.loop(loops[:rows], View(write[:rows], glances))
        said.append(slot.look(attn, x, angles))
    assert torch.allclose(*said, atol=1e-5)


def test_bytes_of_a_block_are_those_of_all_layers_and_loops(tiny_config: Any) -> None:
    cfg = tiny_config(kv="per_loop", core_layers=2)
    pages = Pages(cfg, BLOCKS, SIZE, 3, torch.empty(0, dtype=torch.float64))
    numbers = 2 * cfg.n_kv_heads * cfg.head_dim  # a key and a value
    assert pages.block_bytes == 8 * SIZE * numbers * (1 + 1 + 2 * 3)
    first = Pages(tiny_config(kv="first"), BLOCKS, SIZE, 3, torch.empty(0))
    assert first.block_bytes == 4 * SIZE * numbers * (1 + 1 + 1)


def test_what_leaves_early_shows_its_last_entries_in_deeper_loops(tiny_config: Any) -> None:
    pages = Pages(tiny_config(), BLOCKS, SIZE, 4, torch.empty(0))
    for store in pages.inside.values():
        store.normal_()
    before = {name: store.clone() for name, store in pages.inside.items()}
    pages.deepen([(7, 2, 4), (8, 1, 2), (9, 3, 3)])
    for name, store in pages.inside.items():
        now, then = (t.unflatten(0, (4, -1)).flatten(1, 2) for t in (store, before[name]))
        want = then.clone()
        want[2, 7] = want[3, 7] = then[1, 7]
        want[1, 8] = then[0, 8]
        assert torch.equal(now, want)


@pytest.mark.parametrize("where", ["plain", "triton"])
def test_rows_that_the_device_knows_of_show_the_same_in_deeper_loops(
    tiny_config: Any, where: str, request: pytest.FixtureRequest
) -> None:
    if where == "triton":
        request.getfixturevalue("kernels")
    told, shown = (Pages(tiny_config(), BLOCKS, SIZE, 4, torch.empty(0)) for _ in range(2))
    for name, store in told.inside.items():
        shown.inside[name].copy_(store.normal_())
    place, end = torch.randperm(BLOCKS * SIZE)[:6] + SIZE, torch.randint(1, 5, (6,))
    done = torch.minimum(torch.randint(0, 5, (6,)), end)
    shown.reached = where == "triton"
    told.deepen([row for row in zip(*map(Tensor.tolist, (place, done, end))) if row[1]])  # noqa: B905
    shown.deepen_rows(place, done, end)
    for name, store in told.inside.items():
        mine, other = (
            t.unflatten(0, (4, -1))[:, : BLOCKS + 1] for t in (shown.inside[name], store)
        )
        assert torch.equal(mine, other)


def test_where_all_look_at_the_first_loop_later_ones_write_nowhere(tiny_config: Any) -> None:
    pages = Pages(tiny_config(kv="first"), BLOCKS, SIZE, 4, torch.empty(0))
    slot = pages.loop(torch.tensor([0, 2, 1]), View(torch.tensor([4, 5, 6]), []))
    beyond = nowhere(BLOCKS, SIZE)
    assert slot.view.write.tolist() == [4, beyond, beyond]
    assert beyond // SIZE == BLOCKS + 1


def test_scrubbed_blocks_are_zero_in_every_layer_and_no_others(tiny_config: Any) -> None:
    pages = Pages(tiny_config(), BLOCKS, SIZE, 2, torch.empty(0))
    stores = (*pages.around.values(), *pages.inside.values())
    for store in stores:
        store.fill_(torch.nan)
    pages.scrub([2, 5])
    for store in stores:
        clean = ~store.unflatten(0, (-1, BLOCKS + 2)).isnan().flatten(2).any(-1)
        assert clean.all(0).nonzero().flatten().tolist() == [2, 5]
        assert clean.any(0).nonzero().flatten().tolist() == [2, 5]
    pages.scrub([])
