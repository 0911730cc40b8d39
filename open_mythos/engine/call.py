"""Call: the positions that go through a stage together, from a plan's numbers to tensors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from open_mythos.engine.flight import Run, Track
from open_mythos.engine.pages import Glance, Pages, Reach, View, nowhere
from open_mythos.engine.settings import EngineConfig
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.rotary import Rotary
from open_mythos.nn.upload import upload
from open_mythos.ops.paged import POSITIONS, Blocks, cuts_of


# Queries and keys are turned when the rows are projected; who looks needs no angles.
NO_ANGLES = Rotary(torch.empty(0), torch.empty(0))


class BlockTables:
    """The blocks of every request that runs, by row, where the device can look them up.

    Attributes:
        table: (rows + 1, M) int64; the last row is nobody's, all zeros.
    """

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        """Room for `width` blocks of each of `rows` requests."""
        self.table = torch.zeros(rows + 1, width, dtype=torch.int64, device=device)
        self._lists: list[list[int] | None] = [None] * (rows + 1)
        self._known = [0] * (rows + 1)

    def follow(self, tracks: Iterable[Track]) -> None:
        """Take over what has been added to the blocks of requests that run."""
        width, cells = self.table.shape[1], []
        for track in tracks:
            row, blocks = track.row, track.blocks
            if self._lists[row] is not blocks:  # a new list is another text's
                self._lists[row], self._known[row] = blocks, 0
            known = self._known[row]
            if len(blocks) > known:
                cells += [(row * width + i, blocks[i]) for i in range(known, len(blocks))]
                self._known[row] = len(blocks)
        if cells:
            where, what = upload(list(zip(*cells, strict=True)), self.table.device).unbind()
            self.table.view(-1).index_copy_(0, where, what)


def fillers(settings: EngineConfig, count: int, device: torch.device) -> Tensor:
    """The numbers (7, count) of rows that are nobody's: they see nothing, and write nowhere."""
    beyond = nowhere(settings.blocks, settings.block_size)
    row = (settings.lanes, 0, beyond, 0, 1, settings.rows, 0)
    return upload(row, device, torch.int64).unsqueeze(1).repeat(1, count)


def room_for_cuts(settings: EngineConfig) -> int:
    """Cuts of a filled call: of its pieces, each of any length, and of what fills it up."""
    return 2 * -(-settings.chunk // POSITIONS) + settings.rows + 1


def spare_cuts(start: int, stop: int, count: int, device: torch.device) -> Tensor:
    """So many cuts (2, count) of rows start .. stop that are nobody's, the last of them empty."""
    firsts = torch.arange(start, start + count * POSITIONS, POSITIONS, device=device)
    return torch.stack((firsts.clamp(max=stop), (stop - firsts).clamp(0, POSITIONS)))


@dataclass(frozen=True)
class Piece:
    """Rows start .. stop of a call that are positions of one request, which sees `width` blocks."""

    start: int
    stop: int
    row: int
    width: int


@dataclass(frozen=True)
class Call:
    """Rows of a call: single positions first, then pieces of prompts, or fillers.

    Attributes:
        runs: Whose positions, in the order of the rows, without the fillers.
        starts: The first row of each run.
        single: Rows that are single positions or fillers.
        width: Blocks that they look at, at most.
        pieces: The other rows.
        numbers: (7, N) int64: lane, position, place inside of a slot, loops done, loops at most,
            row of the block table, token.
        cuts: Of the pieces' rows, as `Blocks` has them; None where nobody asks.
        filled: Whether these are pieces alone, and fillers behind them up to one of few sizes.
    """

    runs: Sequence[Run]
    starts: Sequence[int]
    single: int
    width: int
    pieces: tuple[Piece, ...]
    numbers: Tensor
    cuts: Tensor | None = None
    filled: bool = False

    @classmethod
    def of(cls, runs: Sequence[Run], settings: EngineConfig, pages: Pages) -> "Call":
        """The call for `runs`, filled up to one of the settings' sizes."""
        size = settings.block_size
        single = [run for run in runs if len(run.lanes) == 1]
        longer = [run for run in runs if len(run.lanes) > 1]
        # Calls with pieces have any shape, and are not captured.
        spare = 0 if longer else settings.bucket(len(single)) - len(single)
        lanes = [run.lanes[0] for run in single] + [settings.lanes] * spare
        where = [run.positions[0] for run in single] + [0] * spare
        write = [place(run.track, run.positions[0], size) for run in single]
        write += [nowhere(settings.blocks, size)] * spare
        loops = [run.loop for run in single] + [0] * spare
        ends = [run.track.n_loops for run in single] + [1] * spare
        tokens = [run.track.tokens[run.positions[0]] for run in single] + [0] * spare
        rows = [run.track.row for run in single] + [settings.rows] * spare
        width = max(where, default=0) // size + 1
        if settings.buckets:  # few shapes here, too
            width = pages.width(width)
        alone, starts, pieces = len(lanes), list(range(len(single))), []
        for run in longer:
            start, n = len(lanes), len(run.lanes)
            lanes += run.lanes
            where += run.positions
            write += places(run, size)
            loops += [run.loop] * n
            ends += [run.track.n_loops] * n
            tokens += of_positions(run.track.tokens, run.positions)
            rows += [run.track.row] * n
            starts.append(start)
            pieces.append(Piece(start, start + n, run.track.row, where[-1] // size + 1))
        columns = [lanes, where, write, loops, ends, rows, tokens]
        numbers, cuts = upload(columns, pages.device, torch.int64), None
        if pieces and pages.pieces_reach:
            spans = [(piece.start - alone, piece.stop - alone) for piece in pieces]
            cuts = upload(cuts_of(spans), pages.device, torch.int64)
        return cls([*single, *longer], starts, alone, width, tuple(pieces), numbers, cuts)

    def kept(self, going: Tensor, loops: int) -> "Call":
        """The call of some of its rows alone, which have done so many loops.

        Args:
            going: (n,) int64, which, ascending; of a call of pieces.
            loops: Done by all of them.
        """
        numbers = self.numbers.index_select(1, going)
        numbers[3] = loops
        if self.cuts is not None:  # each cut keeps its place, with fewer rows or none
            counts = _shares(going, self.cuts[0])
            cuts = torch.stack((counts.cumsum(0) - counts, counts))
            return replace(self, numbers=numbers, cuts=cuts)
        firsts = torch.tensor([piece.start for piece in self.pieces], device=going.device)
        pieces, start = [], 0
        for piece, count in zip(self.pieces, _shares(going, firsts).tolist(), strict=True):
            if count:
                pieces.append(replace(piece, start=start, stop=start + count))
            start += count
        return replace(self, numbers=numbers, pieces=tuple(pieces))

    def fill(self, settings: EngineConfig) -> "Call":
        """Pieces alone, filled up to one of the settings' sizes; itself where none fits."""
        rows, device = self.numbers.shape[1], self.numbers.device
        size = settings.piece_bucket(rows)
        if self.cuts is None or self.single or size is None:
            return self
        numbers = torch.cat((self.numbers, fillers(settings, size - rows, device)), 1)
        spare = room_for_cuts(settings) - self.cuts.shape[1]
        cuts = torch.cat((self.cuts, spare_cuts(rows, size, spare, device)), 1)
        return replace(self, numbers=numbers, cuts=cuts, filled=True)

    def nobodys(self, settings: EngineConfig) -> "Call":
        """A call of this shape whose rows are all fillers."""
        rows, device = self.numbers.shape[1], self.numbers.device
        numbers, cuts = fillers(settings, rows, device), self.cuts
        if cuts is not None:
            cuts = spare_cuts(0, rows, cuts.shape[1], device)
        return replace(self, numbers=numbers, cuts=cuts)

    def into(self, other: "Call") -> None:
        """Write this call's numbers over those of another of its shape."""
        other.numbers.copy_(self.numbers)
        if self.cuts is not None and other.cuts is not None:
            other.cuts.copy_(self.cuts)

    @property
    def lanes(self) -> Tensor:
        """(N,)."""
        return self.numbers[0]

    @property
    def positions(self) -> Tensor:
        """(N,)."""
        return self.numbers[1]

    @property
    def loops(self) -> Tensor:
        """(N,), loops done."""
        return self.numbers[3]

    @property
    def ends(self) -> Tensor:
        """(N,), loops at most."""
        return self.numbers[4]

    @property
    def tokens(self) -> Tensor:
        """(N,)."""
        return self.numbers[6]

    def view(self, tables: BlockTables, pages: Pages) -> View:
        """Where the rows write, and what they look at: single rows together, pieces alone."""
        glances: list[Glance | Reach] = []
        if self.single:
            alone = slice(0, self.single)
            glances += [
                self._reach(tables, alone) if pages.reached else self._singles(tables, pages.size)
            ]
        if self.cuts is not None:
            glances += [self._reach(tables, slice(self.single, None), self.cuts)]
            return View(self.numbers[2], glances)
        size = pages.size
        for piece in self.pieces:
            blocks = tables.table[piece.row, : piece.width].unsqueeze(0)
            mask = _seen(self.positions[piece.start : piece.stop], piece.width * size)
            context = AttentionContext(NO_ANGLES, causal=False, mask=mask[None, None])
            glances.append(Glance(slice(piece.start, piece.stop), blocks, context))
        return View(self.numbers[2], glances)

    def _reach(self, tables: BlockTables, rows: slice, cuts: Tensor | None = None) -> Reach:
        lines, ends = self.numbers[5, rows], self.positions[rows] + 1
        return Reach(rows, Blocks(tables.table, lines, torch.zeros_like(lines[:1]), ends, cuts))

    def _singles(self, tables: BlockTables, size: int) -> Glance:
        rows, where = slice(0, self.single), self.positions[: self.single]
        width = min(self.width, tables.table.shape[1])
        blocks = tables.table[:, :width].index_select(0, self.numbers[5, : self.single])
        mask = _seen(where, width * size)[:, None, None]
        return Glance(rows, blocks, AttentionContext(NO_ANGLES, causal=False, mask=mask))


def _shares(rows: Tensor, firsts: Tensor) -> Tensor:
    """(n,) int64, how many of `rows`, ascending, lie between each of `firsts` and the next."""
    which = torch.searchsorted(firsts, rows, right=True) - 1
    return torch.zeros_like(firsts).index_add_(0, which, torch.ones_like(which))


def _seen(positions: Tensor, keys: int) -> Tensor:
    """(n, keys) boolean: which keys stand at or before each position."""
    return torch.arange(keys, device=positions.device) <= positions.unsqueeze(1)


def places(run: Run, size: int) -> list[int]:
    """`place` of all positions of a run; whole stretches at once where they are neighbours."""
    blocks, positions = run.track.blocks, run.positions
    if not isinstance(positions, range):
        return [blocks[at // size] * size + at % size for at in positions]
    found: list[int] = []
    for index in range(positions.start // size, (positions.stop - 1) // size + 1):
        low, high = max(positions.start - index * size, 0), positions.stop - index * size
        found += range(blocks[index] * size + low, blocks[index] * size + min(high, size))
    return found


def of_positions(tokens: Sequence[int], positions: Sequence[int]) -> Sequence[int]:
    """The tokens at `positions`."""
    if isinstance(positions, range):
        return tokens[positions.start : positions.stop]
    return [tokens[at] for at in positions]


def place(track: Track, at: int, size: int) -> int:
    """Where a position writes inside of a slot: block * size + offset."""
    return track.blocks[at // size] * size + at % size
