"""Scheduler: who enters the network next, who goes on, who makes room; plain data, no tensors."""

from bisect import insort
from collections.abc import Sequence

from open_mythos.engine.blocks import BlockPool
from open_mythos.engine.flight import Flight, Run, Track
from open_mythos.engine.settings import EngineConfig


class Scheduler:
    """Requests in order of arrival, their rows, lanes and blocks.

    Whoever runs what it plans says so afterwards: `begin` is committed by `entered`, `turn` by
    `turned`, `landing` by `land`. The oldest request is never kept from going on by
    younger ones: where blocks are short, the youngest that runs gives up its own, waits in its
    old place, and is read again from its tokens, of which none is lost.

    Attributes:
        settings: Sizes.
        pool: The cache's blocks.
        tracks: Requests that are neither finished nor cancelled, by number.
        waiting: Those that have no row, oldest first.
        running: Those that have one, oldest first.
        preemptions: How often one has made room so far.
        reused: Positions found in the cache so far.
        seated: How many of those that run stay on the device, and are not planned for here.
        risen: Whether one of them has left the device since somebody took notice.
    """

    def __init__(self, settings: EngineConfig) -> None:
        """Nobody is here."""
        self.settings = settings
        self.pool = BlockPool(settings.blocks)
        self.tracks: dict[int, Track] = {}
        self.waiting: list[Track] = []
        self.running: list[Track] = []
        self.preemptions = self.reused = self.seated = 0
        self.risen = False
        self._promised: int | None = None  # blocks that those who run lack; None: to be counted
        self._news = True  # whether more may fit than when that was asked last
        self._rows = list(range(settings.rows - 1, -1, -1))
        self._lanes = list(range(settings.lanes - 1, settings.rows - 1, -1))
        self._reading: dict[bytes, int] = {}  # blocks under way, and who reads them

    def add(self, track: Track) -> None:
        """A request that has arrived."""
        self.tracks[track.id] = track
        self._news = True
        insort(self.waiting, track, key=_age)

    @property
    def restless(self) -> bool:
        """Whether there is anything to plan for."""
        return self.seated < len(self.running) or (self._news and bool(self.waiting))

    def remove(self, track: Track) -> None:
        """A request that is finished or cancelled, wherever it stands."""
        del self.tracks[track.id]
        if track.row < 0:
            self.waiting.remove(track)
        else:
            self._stop(track)

    # -- into the network ------------------------------------------------------------------------

    def begin(self) -> list[Run]:
        """Flights that start now: the next position or piece of everybody who has none under way.

        Requests that run come first, then those that wait, as long as there is a row and their
        tokens fit beside what the others still need. Those that rest make room for them.
        """
        self._news = False
        for track in list(self.running):
            self._start(track)
        self._promised = None
        while True:
            ready = next((track for track in self.waiting if not track.held), None)
            if ready is None or not (self._fits(ready) or self._clear()):
                break
            if not self._fits(ready):
                continue
            track = ready
            self.waiting.remove(track)
            track.row = self._rows.pop()
            insort(self.running, track, key=_age)
            self._start(track)
            if track.row < 0:
                break
            if self._promised is not None:  # nobody else's blocks have changed
                self._promised += max(track.missing(self.settings.block_size), 0)
        started = [(track, track.flight) for track in self.running]
        return [
            _run(track, flight)
            for track, flight in started
            if flight is not None and not flight.entered
        ]

    def entered(self, runs: Sequence[Run]) -> None:
        """Commit that flights have been through the prelude."""
        for run in runs:
            assert run.track.flight is not None
            run.track.flight.entered = True

    def read(self, runs: Sequence[Run], left: Sequence[int]) -> None:
        """Commit that whole flights have been through prelude and loop in one go.

        Args:
            runs: Whose.
            left: Of each, loops after which its last position left.
        """
        for run, loops in zip(runs, left, strict=True):
            assert run.track.flight is not None
            run.track.flight.entered = True
            run.track.flight.left[-1] = loops

    def _start(self, track: Track) -> None:
        """Give a request its next flight, unless it has one, is held, or must wait."""
        if track.row < 0 or track.held or track.flight is not None or track.seat is not None:
            return
        self._adopt(track)
        size, left = self.settings.block_size, len(track.tokens) - track.cached
        if self._read_by_another(track):
            return
        if left == 1:
            count = 1
        else:
            count = min(left, len(self._lanes))
            if count < left:  # a piece ends with a block, so that the next may be found
                count = (track.cached + count) // size * size - track.cached
            if count < 1:
                return
        if not self._cover(track, track.cached + count):
            return
        lanes = [track.row]
        if count > 1:
            lanes = self._lanes[-count:]
            del self._lanes[-count:]
        track.flight = Flight(track.cached, lanes)
        for name in self._names(track):
            self._reading.setdefault(name, track.id)

    def _shareable(self, track: Track) -> int:
        """Full blocks that may be another's: the last token is always read, to say what follows."""
        if track.root is None or track.whole:
            return 0
        return (len(track.tokens) - 1) // self.settings.block_size

    def _adopt(self, track: Track) -> None:
        """Take over what is cached of the tokens that come next."""
        size = self.settings.block_size
        while track.cached % size == 0 and track.cached // size < self._shareable(track):
            block = self.pool.share(track.name(track.cached // size, size))
            if block is None:
                return
            track.blocks.append(block)
            track.cached += size
            track.reused += size
            self.reused += size

    def _read_by_another(self, track: Track) -> bool:
        """Whether the next block is under way elsewhere: it will be there soon."""
        size = self.settings.block_size
        index = track.cached // size
        if track.cached % size or index >= self._shareable(track):
            return False
        return self._reading.get(track.name(index, size), track.id) != track.id

    def _names(self, track: Track) -> list[bytes]:
        """Names of the full blocks that a request's flight fills."""
        flight, size = track.flight, self.settings.block_size
        if track.root is None or flight is None:
            return []
        full = range(flight.first // size, flight.end // size)
        return [track.name(index, size) for index in full] if full else []

    # -- blocks ----------------------------------------------------------------------------------

    def _clear(self) -> bool:
        """Let the youngest of those that rest make room; whether there was one."""
        resting = [track for track in self.running if track.held and track.flight is None]
        if resting:
            self.preempt(resting[-1])
        return bool(resting)

    def _fits(self, track: Track) -> bool:
        """Whether there is a row, and a request's tokens fit beside what those that run lack."""
        if not self._rows or not self.running:
            return bool(self._rows)
        size = self.settings.block_size
        fresh = track.missing(size)
        for index in range(self._shareable(track)):
            block = self.pool.find(track.name(index, size))
            if block is None:
                break
            fresh -= self.pool.owners(block) > 0  # one that is idle is taken from the others
        if self._promised is None:
            self._promised = sum(max(other.missing(size), 0) for other in self.running)
        return fresh + self._promised <= self.pool.available

    def _cover(self, track: Track, end: int) -> bool:
        """Blocks for positions up to `end`; False if the request itself had to make room."""
        while len(track.blocks) * self.settings.block_size < end:
            block = self.pool.take()
            if block is not None:
                track.blocks.append(block)
                continue
            youngest = self.running[-1]
            self.preempt(youngest)
            if youngest is track:
                return False
        return True

    def preempt(self, track: Track) -> None:
        """Take everything from a request but its tokens, and let it wait in its old place."""
        self._stop(track)
        self._promised = None
        self.preemptions += 1
        insort(self.waiting, track, key=_age)

    def _stop(self, track: Track) -> None:
        self.rise(track)
        self._drop(track)
        self._news = True
        self.pool.release(track.blocks)
        self._rows.append(track.row)
        self.running.remove(track)
        track.blocks, track.cached, track.reused, track.row = [], 0, 0, -1

    def _drop(self, track: Track) -> None:
        """End a request's flight, wherever it is."""
        if track.flight is None:
            return
        for name in self._names(track):
            if self._reading.get(name) == track.id:
                del self._reading[name]
        if len(track.flight.lanes) > 1:
            self._lanes += track.flight.lanes
        track.flight = None

    # -- on the device ---------------------------------------------------------------------------

    def sit(self, track: Track, seat: object) -> None:
        """A request that runs stays on the device, and has no flights."""
        track.seat = seat
        self.seated += 1

    def rise(self, track: Track) -> None:
        """It does so no more; what it did there beyond its tokens is done again."""
        if track.seat is None:
            return
        track.seat = None
        self.seated -= 1
        self.risen = True

    def publish(self, track: Track) -> None:
        """Let the block be found that a request's last position has filled."""
        if track.root is not None:
            index = track.cached // self.settings.block_size - 1
            self.pool.publish(track.blocks[index], track.name(index, self.settings.block_size))

    def provide(self, track: Track, needed: int, wished: int) -> None:
        """Blocks for positions up to `needed`, whoever has to make room, maybe the request itself.

        And for those up to `wished`, as long as there are any.
        """
        if not self._cover(track, needed):
            return
        while len(track.blocks) * self.settings.block_size < wished and self.pool.available:
            block = self.pool.take()
            assert block is not None
            track.blocks.append(block)

    # -- through the loop ------------------------------------------------------------------------

    def turn(self) -> list[Run]:
        """Positions that do another loop: all that are in it, single ones first."""
        runs = [
            _run(track, track.flight)
            for track in self.running
            if track.flight is not None and not track.flight.landed
        ]
        return sorted(runs, key=lambda run: len(run.lanes) > 1)

    def turned(self, runs: Sequence[Run], turns: int, left: Sequence[Sequence[int]]) -> None:
        """Commit loops of `runs`.

        Args:
            runs: Who took part.
            turns: Loops that were run.
            left: By run and position, loops after which it left; 0 where it is going.
        """
        for run, loops in zip(runs, left, strict=True):
            flight = run.track.flight
            assert flight is not None
            flight.loops += turns
            for position, gone in zip(run.positions, loops, strict=True):
                flight.left[position - run.first] = gone

    def landing(self) -> list[Run]:
        """Flights that have left the loop as a whole, once they are worth a call."""
        flights = [(track, track.flight) for track in self.running if track.flight is not None]
        landed = [(track, flight) for track, flight in flights if flight.landed]
        if len(landed) < min(self.settings.gather * len(flights), len(flights)):
            return []
        return [
            Run(track, flight.first, flight.lanes, range(flight.first, flight.end), flight.loops)
            for track, flight in landed
        ]

    def land(self, track: Track) -> int:
        """Commit that a flight has been through the network, and let its full blocks be found.

        Returns:
            Loops after which its last position left.
        """
        flight, size = track.flight, self.settings.block_size
        assert flight is not None
        names = self._names(track)
        track.cached = flight.end
        for index, name in enumerate(names, flight.first // size):
            self.pool.publish(track.blocks[index], name)
        self._drop(track)
        return flight.left[-1]


def _age(track: Track) -> int:
    return track.id


def _run(track: Track, flight: Flight) -> Run:
    """Those of a flight that are still going."""
    if len(flight.lanes) == 1:
        return Run(track, flight.first, flight.lanes, (flight.first,), flight.loops)
    if not any(flight.left):
        return Run(track, flight.first, flight.lanes, range(flight.first, flight.end), flight.loops)
    going = [i for i, left in enumerate(flight.left) if not left]
    return Run(
        track=track,
        first=flight.first,
        lanes=[flight.lanes[i] for i in going],
        positions=[flight.first + i for i in going],
        loop=flight.loops,
    )
