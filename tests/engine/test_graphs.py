"""Captured stages: what is replayed follows from the numbers alone; and, on a GPU, for real."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.config.mythos import MythosConfig
from open_mythos.engine.call import Call, room_for_cuts
from open_mythos.engine.engine import Engine
from open_mythos.engine.flight import Run, Track
from open_mythos.engine.graphs import Graphs, Recorded, Stage
from open_mythos.engine.pages import Pages
from open_mythos.engine.settings import EngineConfig


class Again(Graphs):
    """Runs a stage again where a GPU would replay it: on the numbers that it was recorded with."""

    recorded = 0
    replayed = 0
    launched = 0

    def __init__(self, settings: EngineConfig) -> None:
        super().__init__(settings)
        self.filled: set[int] = set()

    def capture(
        self, warm: Callable[[], object], run: Callable[[], object]
    ) -> Callable[[], object]:
        warm()

        def replay() -> None:
            self.launched += 1
            run()

        return replay

    def record(self, stage: Stage, call: Call) -> Recorded:
        out = stage(call).clone()
        self.recorded += 1
        if call.filled:
            self.filled.add(call.numbers.shape[1])

        def replay() -> None:
            self.replayed += 1
            out.copy_(stage(call))

        return Recorded(call, out, replay)


@pytest.mark.parametrize("exit", [None, "latent:0.3", "kl:0.05", "act:0.9"])
@pytest.mark.parametrize("stride", [1, 3])
def test_replayed_stages_say_what_each_request_says_alone(
    build: Any, ask: Any, alone: Any, sizes: Any, exit: str | None, stride: int
) -> None:
    model = build(halted="freeze")
    settings = sizes(buckets=(1, 2, 4), stride=stride, gather=0.0)
    engine = Engine(model, settings=settings)
    graphs = engine.runner.graphs = Again(settings)
    requests = [ask([i, 7, i], 7 - i, 4, exit) for i in range(5)]
    said = engine.complete(requests)
    assert [list(one.tokens) for (one,) in said] == [alone(model, r) for r in requests]
    assert graphs.replayed > graphs.recorded > 0


def test_what_the_users_own_exit_does_is_not_recorded(
    build: Any, ask: Any, alone: Any, sizes: Any
) -> None:
    class Late:
        """Unhashable on purpose: it is equal to others."""

        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Late)

        def done(self, seen: Any) -> torch.Tensor:
            return torch.full(seen.after.shape[:-1], seen.loop > 1)

    model, settings = build(halted="freeze", readout="last"), sizes(buckets=(1, 2, 4))
    engine = Engine(model, settings=settings)
    engine.runner.graphs = Again(settings)
    request = ask([1, 2, 3], 4, 4, Late())
    ((said,),) = engine.complete([request])
    assert list(said.tokens) == alone(model, request)
    assert set(said.loops) == {2}


def pages(settings: EngineConfig) -> Pages:
    cfg = MythosConfig(dim=16, n_heads=2, n_kv_heads=1, vocab_size=8, max_loop_iters=2)
    return Pages(cfg, settings.blocks, settings.block_size, 2, torch.empty(0))


def call(settings: EngineConfig, lanes: list[int], width: int = 1) -> Call:
    track = Track(0, [0] * 40, 2, None, row=0, blocks=list(range(1, 11)))
    at = width * settings.block_size - 1
    runs = [Run(track, at, [lane], [at], 0) for lane in lanes]
    return Call.of(runs, settings, pages(settings))


def test_shapes_are_recorded_once_and_numbers_are_those_of_the_call(sizes: Any) -> None:
    settings = sizes(buckets=(1, 4))
    graphs = Again(settings)
    stage = lambda given: given.lanes + 1  # noqa: E731
    for lanes, width in (([2, 0], 1), ([3], 1), ([1, 2, 3], 1), ([1, 2], 2)):
        shown = call(settings, lanes, width)
        want = [lane + 1 for lane in lanes]
        assert graphs.run(stage, shown, "a")[: len(lanes)].tolist() == want
    assert graphs.recorded == 3
    graphs.run(stage, shown, "b")
    graphs.clear()
    graphs.run(stage, shown, "b")
    assert graphs.recorded == 5


def test_only_few_shapes_fit(sizes: Any) -> None:
    graphs = Graphs(sizes(buckets=(1, 4)))
    assert graphs.fits(call(graphs.settings, [0, 1]))
    assert not graphs.fits(call(graphs.settings, [0, 1, 2, 3, 0]))
    track = Track(0, [0] * 4, 2, None, row=0, blocks=[1])
    piece = Call.of([Run(track, 0, [4, 5], [0, 1], 0)], graphs.settings, pages(graphs.settings))
    assert not graphs.fits(piece)
    assert not Graphs(sizes()).fits(call(sizes(), [0]))


@pytest.mark.parametrize(("changes", "exit"), [
    ({"halted": "freeze"}, None), ({"halted": "freeze"}, "latent:0.3"),
    ({"halted": "freeze"}, "kl:0.05"),
    ({"readout": "last", "halted": "freeze"}, "latent:0.3"), ({"readout": "last"}, None),
    ({"readout": "last"}, "latent:0.3"), ({"kv": "first"}, "latent:0.3"),
])  # fmt: skip
def test_replayed_pieces_say_what_each_request_says_alone(
    build: Any, ask: Any, alone: Any, sizes: Any, changes: dict[str, Any], exit: str | None
) -> None:
    model = build(attn_type="gqa", max_seq_len=96, **changes)
    settings = sizes(blocks=80, rows=5, chunk=40, stride=2, buckets=(1, 2, 4), prompts_at_once=True)
    engine = Engine(model, settings=settings)
    graphs = engine.runner.graphs = Again(settings)
    engine.runner.stages.pages.pieces_reach = True  # by blocks, as on a GPU
    lengths = (3, 61, 20, 2, 7, 33)
    requests = [ask(torch.randint(0, 30, (n,)).tolist(), 3, 4, exit) for n in lengths]
    said = engine.complete(requests)
    assert [list(one.tokens) for (one,) in said] == [alone(model, r) for r in requests]
    assert graphs.replayed > graphs.recorded > 0
    assert graphs.filled <= {16, 32, 40}
    assert len(graphs.filled) > 1


@given(st.integers(1, 300), st.integers(1, 60), st.data())
def test_a_piece_is_filled_with_rows_that_are_nobodys(
    chunk: int, rows: int, data: st.DataObject
) -> None:
    """Every row of a filled call is in one cut, by whoever it is; and where few are left, too."""
    settings = EngineConfig(blocks=400, block_size=4, rows=rows, chunk=max(chunk, 4))
    lengths: list[int] = []
    while len(lengths) < rows and sum(lengths) + 2 <= settings.chunk:
        lengths.append(data.draw(st.integers(2, settings.chunk - sum(lengths))))
    looks = pages(settings)
    looks.pieces_reach = True
    runs, start = [], 0
    for row, length in enumerate(lengths):
        track = Track(row, [0] * length, 2, None, row=row, blocks=[1] * length)
        runs.append(Run(track, 0, list(range(start, start + length)), range(length), 0))
        start += length
    shown = Call.of(runs, settings, looks)
    going = torch.tensor(sorted(data.draw(st.sets(st.integers(0, start - 1), min_size=1))))
    for part in (shown, shown.kept(going, 1)):
        full, count = part.fill(settings), part.numbers.shape[1]
        assert full.filled
        assert full.cuts is not None
        assert full.cuts.shape[1] == room_for_cuts(settings)
        assert count <= full.numbers.shape[1] <= max(count + 16, 1.25 * count + 1)
        cut = [range(first, first + n) for first, n in full.cuts.T.tolist()]
        assert [row for rows in cut for row in rows] == list(range(full.numbers.shape[1]))
        for inside in cut:
            assert len(set(full.numbers[5, inside.start : inside.stop].tolist())) <= 1
        assert (full.numbers[5, count:] == settings.rows).all()


def reads(engine: Engine, requests: list[Any]) -> dict[int, list[tuple[int, int]]]:
    """By request, the loops that each token's position ran, and after which it was read."""
    found: dict[int, list[tuple[int, int]]] = {engine.add(request): [] for request in requests}
    for event in engine.run():
        found[event.request].append((event.loops, event.read))
    return found


@pytest.mark.parametrize("exit", ["latent:0.3", "kl:0.01"])
def test_replayed_loops_note_when_rows_left(build: Any, ask: Any, sizes: Any, exit: str) -> None:
    model, settings = build(halted="continue", readout="last"), sizes(buckets=(1, 2, 4))
    loose = f"{exit.partition(':')[0]}:1e9"  # leaves as soon as it may; who has no exit, never
    requests = [ask([i, 7, i], 5, 4, rule) for i, rule in enumerate((exit, exit, loose, None))]
    replayed, plain = (Engine(model, settings=settings) for _ in range(2))
    replayed.runner.graphs = Again(settings)
    found = reads(replayed, requests)
    assert found == reads(plain, requests)
    assert len({read for one in found.values() for _, read in one}) > 1


@pytest.mark.parametrize("exit", [None, "latent:0.3", "kl:0.05"])
def test_replayed_rounds_say_what_each_request_says_alone(
    build: Any, ask: Any, alone: Any, sizes: Any, exit: str | None
) -> None:
    model = build(halted="freeze", readout="last")
    settings = sizes(buckets=(1, 2, 4), stride=2, resident=2)
    engine = Engine(model, settings=settings)
    graphs = engine.runner.graphs = Again(settings)
    requests = [ask([i, 7, i], 12 - i, 4, exit) for i in range(6)]
    said = engine.complete(requests)
    assert [list(one.tokens) for (one,) in said] == [alone(model, r) for r in requests]
    assert graphs.launched > 4


ROUNDS: list[dict[str, Any]] = [
    {"halted": "freeze", "readout": "last"},
    {"halted": "freeze", "readout": "act"},
    {"kv": "first", "readout": "last"},
    {"halted": "continue", "readout": "last", "core_ffn": "dense"},
]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("changes", ROUNDS, ids=str)
@pytest.mark.parametrize("exits", [(None,), ("latent:0.3", None, "latent:0.1"), ("kl:0.05",)])
def test_on_a_gpu_residents_say_what_the_host_would_have_them_say(
    build: Any, ask: Any, sizes: Any, attn_type: str, changes: Any, exits: Any
) -> None:
    model = build(attn_type=attn_type, **changes).float().cuda()
    warm = {"temperature": 1.0, "seed": 5, "top_p": 0.9}
    requests = [ask([i, 7, i], 14 - i, 4, exits[i % len(exits)]) for i in range(6)]
    requests += [ask([i, 9], 8, 4, exits[0], **warm) for i in range(3)]
    found = []
    for graphs, resident in ((False, 0), (False, 2), (True, 2), (None, None)):
        engine = Engine(model, settings=sizes(graphs=graphs, resident=resident, stride=2, rows=5))
        found.append([one for (one,) in engine.complete(requests)])
        assert engine.stats.used == 0
        assert (engine.residents is not None) == (resident != 0)
    assert found[1] == found[0]
    assert found[2] == found[0]
    assert found[3] == found[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_residents_come_and_go_on_few_blocks(build: Any, ask: Any, sizes: Any) -> None:
    model = build(halted="freeze", readout="last").float().cuda()
    requests = [ask([i, 2, 3], 12, 4, "latent:0.3") for i in range(12)]
    found = []
    for resident in (0, 3):
        few = sizes(blocks=9, block_size=2, rows=5, resident=resident)
        engine = Engine(model, settings=few)
        found.append([one for (one,) in engine.complete(requests)])
        assert engine.stats.preemptions > 0
    assert found[0] == found[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_captured_loops_note_when_rows_left(build: Any, ask: Any, sizes: Any) -> None:
    model = build(halted="continue", readout="act").float().cuda()
    requests = [
        ask([i, 7, i], 9, 4, exit) for i, exit in enumerate((None, "kl:0.01", "latent:0.3"))
    ]
    eager, captured = (Engine(model, settings=sizes(graphs=graphs)) for graphs in (False, True))
    assert reads(eager, requests) == reads(captured, requests)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("exit", [None, "latent:0.3", "kl:0.05"])
def test_on_a_gpu_captured_and_eager_engines_say_the_same(
    build: Any, ask: Any, sizes: Any, attn_type: str, exit: str | None
) -> None:
    model = build(attn_type=attn_type, halted="freeze").float().cuda()
    requests = [ask([i, 7, i], 9, 4, exit) for i in range(4)]
    said = []
    for graphs in (False, True):
        engine = Engine(model, settings=sizes(graphs=graphs, stride=2))
        said.append([one.tokens for (one,) in engine.complete(requests)])
        assert (engine.runner.graphs is not None) == graphs
    assert said[0] == said[1]
