"""The scheduler against a cache that remembers who wrote what: no model, no tensors."""

import random

import pytest
from hypothesis import given, settings, strategies as st

from open_mythos.engine.blocks import root_name
from open_mythos.engine.flight import Run, Track
from open_mythos.engine.scheduler import Scheduler
from open_mythos.engine.settings import EngineConfig


def follow(tokens: list[int]) -> int:
    """A "model": the next token depends on every one before it."""
    return sum((i + 1) * token for i, token in enumerate(tokens)) % 5


class Machine:
    """Runs what the scheduler plans; a position's entry is the text up to it."""

    def __init__(self, sizes: EngineConfig, seed: int) -> None:
        self.scheduler, self.sizes = Scheduler(sizes), sizes
        self.luck = random.Random(seed)
        self.memory: dict[tuple[int, int], tuple[int, ...]] = {}
        self.limits: dict[int, int] = {}
        self.written = 0

    def place(self, track: Track, at: int) -> tuple[int, int]:
        return track.blocks[at // self.sizes.block_size], at % self.sizes.block_size

    def step(self) -> None:
        scheduler = self.scheduler
        for run in scheduler.landing():
            self.land(run)
        entering = scheduler.begin()
        for run in entering:
            for at in run.positions:
                self.written += 1
                self.memory[self.place(run.track, at)] = tuple(run.track.tokens[: at + 1])
        scheduler.entered(entering)
        self.check()
        going = scheduler.turn()
        assert [len(run.lanes) > 1 for run in going] == sorted(len(r.lanes) > 1 for r in going)
        turns = self.luck.randint(1, min((r.track.n_loops - r.loop for r in going), default=1))
        left = [[self.leave(run, turns) for _ in run.lanes] for run in going]
        scheduler.turned(going, turns, left)

    def leave(self, run: Run, turns: int) -> int:
        """After which of the next loops a position leaves."""
        for loop in range(run.loop + 1, run.loop + turns + 1):
            if loop == run.track.n_loops or self.luck.random() < 0.4:
                return loop
        return 0

    def land(self, run: Run) -> None:
        track = run.track
        for at in range(run.positions[-1] + 1):  # all that it looks at is its own text
            assert self.memory[self.place(track, at)] == tuple(track.tokens[: at + 1])
        speaks = run.speaks
        loops = self.scheduler.land(track)
        assert 1 <= loops <= track.n_loops
        if speaks:
            track.tokens.append(follow(track.tokens))
            if len(track.tokens) == self.limits[track.id]:
                self.scheduler.remove(track)

    def check(self) -> None:
        scheduler = self.scheduler
        rows = [track.row for track in scheduler.running]
        assert len(set(rows)) == len(rows) <= self.sizes.rows
        flights = [track.flight for track in scheduler.running if track.flight is not None]
        lanes = [lane for flight in flights for lane in flight.lanes]
        assert len(set(lanes)) == len(lanes)
        assert all(0 <= lane < self.sizes.lanes for lane in lanes)
        held = [block for track in scheduler.tracks.values() for block in track.blocks]
        pool = scheduler.pool
        assert all(pool.owners(b) == held.count(b) for b in range(1, pool.count + 1))
        assert scheduler.running == sorted(scheduler.running, key=lambda track: track.id)
        assert all(not track.blocks for track in scheduler.waiting)
        for track in scheduler.running:
            end = track.cached if track.flight is None else track.flight.end
            assert len(track.blocks) * self.sizes.block_size >= end


@st.composite
def schedules(draw: st.DrawFn) -> tuple[EngineConfig, int]:
    size = draw(st.sampled_from([1, 2, 4]))
    sizes = EngineConfig(
        blocks=-(-24 // size) + draw(st.integers(0, 12)),
        block_size=size,
        rows=draw(st.integers(1, 5)),
        chunk=draw(st.integers(size, 12)),
        share_prefixes=draw(st.booleans()),
        gather=draw(st.sampled_from([0.0, 0.25, 1.0])),
    )
    return sizes, draw(st.integers(0, 10**6))


@settings(max_examples=60)
@given(schedules())
def test_any_schedule_ends_with_every_text_right_and_every_block_free(
    given: tuple[EngineConfig, int],
) -> None:
    sizes, seed = given
    machine = Machine(sizes, seed)
    luck, scheduler = machine.luck, machine.scheduler
    start = [luck.randrange(5) for _ in range(12)]
    root = root_name() if sizes.share_prefixes else None
    arrivals = sorted(luck.randrange(40) for _ in range(luck.randint(1, 9)))
    tracks: list[Track] = []
    cancelled: set[int] = set()
    for step in range(3000):
        while arrivals and arrivals[0] <= step:
            arrivals.pop(0)
            tokens = start[: luck.randint(0, 12)] + [luck.randrange(5) for _ in range(3)]
            track = Track(len(tracks), tokens, luck.randint(1, 4), root)
            machine.limits[track.id] = len(tokens) + luck.randint(1, 9)
            tracks.append(track)
            scheduler.add(track)
        for track in list(scheduler.tracks.values()):
            track.held = luck.random() < 0.1
            if luck.random() < 0.01:
                scheduler.remove(track)
                cancelled.add(track.id)
        machine.step()
        if not arrivals and not scheduler.tracks:
            break
    assert not scheduler.tracks
    assert scheduler.pool.used == 0
    for track in tracks:
        if track.id not in cancelled:
            assert len(track.tokens) == machine.limits[track.id]


def run_all(machine: Machine, limit: int = 500) -> int:
    steps = 0
    while machine.scheduler.tracks:
        machine.step()
        steps += 1
        assert steps < limit
    return steps


def test_prompts_that_start_alike_are_read_once() -> None:
    sizes = EngineConfig(blocks=64, block_size=4, rows=8, chunk=32)
    machine, start = Machine(sizes, 0), list(range(5)) * 4
    for i in range(8):
        track = Track(i, [*start, i % 5, 1], 2, root_name())
        machine.limits[i] = len(track.tokens) + 1
        machine.scheduler.add(track)
    run_all(machine)
    assert machine.scheduler.reused == 7 * 20  # all but the first find five blocks
    assert machine.written == 22 + 7 * 2


def test_other_roots_share_nothing_and_the_last_token_is_always_read() -> None:
    sizes = EngineConfig(blocks=64, block_size=4, rows=1, chunk=32)
    machine = Machine(sizes, 0)
    for i, root in enumerate((root_name("a"), root_name("b"), root_name("a"))):
        machine.limits[i] = 9
        machine.scheduler.add(Track(i, [1] * 8, 2, root))
    run_all(machine)
    assert machine.scheduler.reused == 4  # of eight tokens, the block without the last


def test_the_oldest_goes_on_and_the_youngest_makes_room() -> None:
    sizes = EngineConfig(blocks=8, block_size=2, rows=3, chunk=8, share_prefixes=False)
    machine = Machine(sizes, 1)
    ends: list[int] = []
    for i in range(3):
        machine.limits[i] = 15
        machine.scheduler.add(Track(i, [i] * 3, 1, None))
    while machine.scheduler.tracks:
        before = set(machine.scheduler.tracks)
        machine.step()
        ends += sorted(before - set(machine.scheduler.tracks))
    assert ends == [0, 1, 2]
    assert machine.scheduler.preemptions > 0


def test_who_rests_keeps_his_place_until_somebody_needs_it() -> None:
    sizes = EngineConfig(blocks=64, block_size=4, rows=1, chunk=8)
    machine = Machine(sizes, 0)
    first, second = Track(0, [1, 2], 1, None), Track(1, [3, 4], 1, None)
    machine.limits = {0: 5, 1: 4}
    machine.scheduler.add(first)
    machine.step()
    first.held = True
    for _ in range(4):
        machine.step()
    assert first.row >= 0
    machine.scheduler.add(second)
    while second.id in machine.scheduler.tracks:
        machine.step()
    assert first.row < 0
    first.held = False
    run_all(machine)
    assert len(first.tokens) == 5


@pytest.mark.parametrize("chunk", [4, 5, 7, 16])
def test_pieces_of_prompts_end_with_blocks(chunk: int) -> None:
    machine = Machine(EngineConfig(blocks=32, block_size=4, rows=1, chunk=chunk), 0)
    track = Track(0, [1] * 14, 1, None)
    machine.limits[0] = 15
    machine.scheduler.add(track)
    starts = []
    while machine.scheduler.tracks:
        machine.step()
        if track.flight is not None:
            starts.append(track.flight.first)
    assert all(start % 4 == 0 for start in starts)
    assert max(starts) < 14


@pytest.mark.parametrize("gather", [0.0, 0.5, 1.0])
def test_who_has_left_waits_for_his_share_of_the_others(gather: float) -> None:
    machine = Machine(EngineConfig(blocks=64, rows=4, gather=gather), 0)
    for i in range(4):  # of one position each, and of unequal depth
        machine.limits[i] = 2
        machine.scheduler.add(Track(i, [i], i + 1, None))
    landings = []
    machine.luck.random = lambda: 1.0  # type: ignore[method-assign] -- nobody leaves early
    machine.luck.randint = lambda low, high: 1  # type: ignore[method-assign] -- loop by loop
    while machine.scheduler.tracks:
        before = len(machine.scheduler.tracks)
        machine.step()
        landings.append(before - len(machine.scheduler.tracks))
    assert [n for n in landings if n] == {0.0: [1, 1, 1, 1], 0.5: [2, 1, 1], 1.0: [4]}[gather]


def test_who_stays_on_the_device_is_not_planned_for_and_makes_room_like_others() -> None:
    scheduler = Scheduler(EngineConfig(blocks=4, block_size=2, rows=2, chunk=8))
    old, young = (Track(i, [i, 1, 2], 2, root_name(i)) for i in range(2))
    for track in (old, young):
        scheduler.add(track)
    runs = scheduler.begin()
    scheduler.entered(runs)
    scheduler.turned(runs, 2, [[2] * len(run.lanes) for run in runs])
    for run in scheduler.landing():
        scheduler.land(run.track)
        run.track.tokens.append(3)
        scheduler.sit(run.track, object())
    assert (scheduler.seated, scheduler.restless, scheduler.begin()) == (2, False, [])
    scheduler.provide(old, 4, 6)  # two blocks each: nothing beyond is taken
    assert [len(track.blocks) for track in (old, young)] == [2, 2]
    old.tokens.append(4)
    old.cached += 1
    scheduler.publish(old)
    assert scheduler.pool.find(old.name(1, 2)) == old.blocks[1]
    scheduler.provide(old, 5, 7)  # the younger one makes room for the one, and for the other
    assert [len(track.blocks) for track in (old, young)] == [4, 0]
    assert (young.seat, young.row, scheduler.risen, scheduler.seated) == (None, -1, True, 1)
    assert scheduler.restless
    scheduler.remove(old)
    scheduler.remove(young)
    assert scheduler.pool.used == scheduler.seated == 0
