"""Calls: rows in order, fillers that touch nobody, tables that follow their lists."""

from typing import Any

import torch

from open_mythos.engine.call import BlockTables, Call
from open_mythos.engine.flight import Run, Track
from open_mythos.engine.pages import Glance, Pages, Reach, nowhere
from open_mythos.engine.settings import EngineConfig


CPU = torch.device("cpu")


def track(number: int, row: int, blocks: list[int]) -> Track:
    return Track(number, list(range(10, 19)), 4, None, row=row, blocks=blocks)


def pages(tiny_config: Any) -> Pages:
    return Pages(tiny_config(), 20, 4, 4, torch.empty(0))


def test_single_positions_come_first_then_pieces(tiny_config: Any) -> None:
    sizes = EngineConfig(blocks=20, block_size=4, rows=4, chunk=8, buckets=(8, 16))
    a, b, c = track(5, 2, [7, 3]), track(6, 0, [9]), track(8, 1, [4, 5, 6])
    runs = [
        Run(c, 4, [4, 6, 7], [4, 6, 8], 2),
        Run(a, 5, [2], [5], 1),
        Run(b, 3, [0], [3], 3),
    ]
    call = Call.of(runs, sizes, pages(tiny_config))
    assert [run.track.id for run in call.runs] == [5, 6, 8]
    assert list(call.starts) == [0, 1, 2]
    assert (call.single, call.width) == (2, 2)
    assert call.lanes.tolist() == [2, 0, 4, 6, 7]
    assert call.positions.tolist() == [5, 3, 4, 6, 8]
    assert call.numbers[2].tolist() == [3 * 4 + 1, 9 * 4 + 3, 20, 22, 24]
    assert call.loops.tolist() == [1, 3, 2, 2, 2]
    assert call.ends.tolist() == [4, 4, 4, 4, 4]
    assert call.numbers[5].tolist() == [2, 0, 1, 1, 1]
    assert call.tokens.tolist() == [15, 13, 14, 16, 18]
    assert [(p.start, p.stop, p.row, p.width) for p in call.pieces] == [(2, 5, 1, 3)]


def test_fillers_complete_a_call_of_single_positions(tiny_config: Any) -> None:
    sizes = EngineConfig(blocks=20, block_size=4, rows=4, chunk=8, buckets=(4, 16))
    spare, beyond = sizes.lanes, nowhere(20, 4)
    call = Call.of([Run(track(6, 0, [9]), 3, [0], [3], 3)], sizes, pages(tiny_config))
    assert call.single == 4
    assert call.lanes.tolist() == [0, spare, spare, spare]
    assert call.numbers[2].tolist() == [9 * 4 + 3, *[beyond] * 3]
    assert call.ends.tolist() == [4, 1, 1, 1]
    assert call.numbers[5].tolist() == [0, 4, 4, 4]


def test_a_run_of_neighbours_is_placed_like_scattered_positions(tiny_config: Any) -> None:
    sizes, one = EngineConfig(blocks=20, block_size=4, rows=4, chunk=8), track(8, 1, [4, 9, 6])
    for low, high in ((0, 9), (2, 4), (3, 8), (5, 7)):
        lanes = list(range(4, 4 + high - low))
        near = Call.of([Run(one, low, lanes, range(low, high), 0)], sizes, pages(tiny_config))
        far = Call.of([Run(one, low, lanes, list(range(low, high)), 0)], sizes, pages(tiny_config))
        assert torch.equal(near.numbers, far.numbers)


def test_who_has_left_drops_out_of_a_call_of_pieces(tiny_config: Any) -> None:
    sizes = EngineConfig(blocks=20, block_size=4, rows=4, chunk=40)
    room = pages(tiny_config)
    b, c = track(6, 0, [9]), Track(8, list(range(30)), 4, None, row=1, blocks=list(range(10, 18)))
    runs = [Run(c, 0, list(range(3, 22)), range(19), 0), Run(b, 0, [1, 23], range(2, 4), 0)]
    going = torch.tensor([0, 5, 18, 20])
    copied = Call.of(runs, sizes, room).kept(going, 3)
    assert copied.positions.tolist() == [0, 5, 18, 3]
    assert copied.loops.tolist() == [3] * 4
    assert [(p.start, p.stop, p.row) for p in copied.pieces] == [(0, 3, 1), (3, 4, 0)]
    assert [(p.start, p.stop) for p in copied.kept(torch.tensor([3]), 4).pieces] == [(0, 1)]
    room.reached = room.pieces_reach = True
    reached = Call.of(runs, sizes, room).kept(going, 3)
    assert reached.cuts is not None
    assert reached.cuts.tolist() == [[0, 2, 3], [2, 1, 1]]
    again = reached.kept(torch.tensor([1, 3]), 4)
    assert again.cuts is not None
    assert again.cuts.tolist() == [[0, 1, 1], [1, 0, 1]]


def test_views_show_each_row_its_own_past(tiny_config: Any) -> None:
    sizes = EngineConfig(blocks=20, block_size=4, rows=4, chunk=8)
    tables = BlockTables(4, 5, CPU)
    a, c = track(5, 2, [7, 3]), track(8, 1, [4, 5, 6])
    runs = [Run(a, 5, [2], [5], 1), Run(c, 4, [4, 6], [4, 6], 2)]
    tables.follow([a, c])
    room = pages(tiny_config)
    single, piece = Call.of(runs, sizes, room).view(tables, room).glances
    assert isinstance(single, Glance)
    assert isinstance(piece, Glance)
    assert single.blocks.tolist() == [[7, 3]]
    assert piece.blocks.tolist() == [[4, 5]]
    masks = [glance.context.mask for glance in (single, piece)]
    assert all(mask is not None for mask in masks)
    shown = [mask.flatten(0, -2).sum(-1).tolist() for mask in masks if mask is not None]
    assert shown == [[6], [5, 7]]


def test_where_blocks_are_read_as_they_lie_pieces_are_cut_and_widths_are_one(
    tiny_config: Any,
) -> None:
    sizes = EngineConfig(blocks=20, block_size=4, rows=4, chunk=40, buckets=(1, 2, 4))
    tables, room = BlockTables(4, 5, CPU), pages(tiny_config)
    room.reached = room.pieces_reach = True
    a, b = track(5, 2, [7, 3]), track(6, 0, [9])
    c = Track(8, list(range(30)), 4, None, row=1, blocks=list(range(10, 18)))
    runs = [Run(a, 5, [2], [5], 1), Run(c, 0, list(range(3, 22)), list(range(19)), 2),
            Run(b, 0, [1, 23], [2, 3], 0)]  # fmt: skip
    call = Call.of(runs, sizes, room)
    assert call.width == 1
    single, pieces = call.view(tables, room).glances
    assert isinstance(single, Reach)
    assert isinstance(pieces, Reach)
    assert single.blocks.cuts is None
    assert (single.blocks.lines.tolist(), single.blocks.ends.tolist()) == ([2], [6])
    assert pieces.blocks.cuts is not None
    assert pieces.blocks.cuts.tolist() == [[0, 16, 19], [16, 3, 2]]
    assert pieces.blocks.lines.tolist() == [1] * 19 + [0] * 2
    assert pieces.blocks.ends.tolist() == [*range(1, 20), 3, 4]


def test_tables_follow_growing_lists_and_notice_new_ones() -> None:
    tables, one = BlockTables(2, 4, CPU), track(0, 1, [5])
    tables.follow([one])
    one.blocks.append(6)
    tables.follow([one])
    assert tables.table[1].tolist() == [5, 6, 0, 0]
    one.blocks = [8]
    tables.follow([one])
    assert tables.table[1, 0] == 8
    assert tables.table[2].tolist() == [0] * 4
