"""Jobs: documents sorted into training and validation, in portions that are encoded together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from open_mythos.data.documents import Source, read_source
from open_mythos.data.encoding import Texts
from open_mythos.data.journal import Journal
from open_mythos.data.readers import BadRecords, Piece, Reading


# Characters of a job: tens of milliseconds of work, megabytes of memory.
JOB = 1 << 20
# Fixed for ever: another key would move documents between training and validation.
SPLIT_KEY = b"open_mythos validation split"
TRAIN, VALIDATION = range(2)


@dataclass(frozen=True)
class Sorting:
    """How documents are read and sorted.

    Attributes:
        text_field: Field of a record that is its text.
        validation_share: Chance of a document to be held out.
        skip_bad: Leave records without text out, and count them.
    """

    text_field: str
    validation_share: float
    skip_bad: bool


@dataclass
class Pile:
    """Pieces for one split, growing to a job."""

    texts: list[str] = field(default_factory=list)
    begins: list[bool] = field(default_factory=list)
    ends: list[bool] = field(default_factory=list)
    text_bytes: int = 0

    def add(self, text: str, begins: bool, ends: bool, text_bytes: int) -> None:
        """One piece more."""
        self.texts.append(text)
        self.begins.append(begins)
        self.ends.append(ends)
        self.text_bytes += text_bytes


@dataclass(frozen=True)
class PieceJob:
    """Pieces that are encoded together.

    Attributes:
        piles: For training, for validation.
        reached: The journal behind them, but for what encoding and writing will add.
        read: Bytes of the sources that were read by then.
    """

    piles: tuple[Pile, Pile]
    reached: Journal
    read: int

    @property
    def parts(self) -> Sequence[Texts]:
        """What is encoded, without what only the writer has to know."""
        return [Texts(pile.texts, pile.begins, pile.ends) for pile in self.piles]


def held_out(data: bytes, share: float) -> bool:
    """Whether a document that begins with these bytes is for validation.

    A keyed hash decides, so that a text falls on the same side wherever and whenever it is found,
    and a document and its double never face each other. Of a document of several pieces the first
    speaks for all.
    """
    number = int.from_bytes(blake2b(data, digest_size=8, key=SPLIT_KEY).digest(), "big")
    return number < share * 2.0**64


class Sorter:
    """Reads sources and hands out jobs, knowing at each how far it has come."""

    def __init__(self, sorting: Sorting, start: Journal, size: int = JOB) -> None:
        """Go on behind the journal's place, in jobs of about `size` characters."""
        self._sorting, self._start, self._size = sorting, start, size
        self._place = (start.source, start.record, start.pieces)
        self._bad = BadRecords(sorting.skip_bad, start.skipped)
        self._blank = start.blank
        self._piles, self._held = (Pile(), Pile()), 0

    def jobs(self, sources: Sequence[Source]) -> Iterator[PieceJob]:
        """Everything that is left; the last job, which may be empty, has the counts of the end.

        Raises:
            InputError: On what cannot be read, unless it is to be skipped.
            MissingExtraError: Without the package that reads a source.
        """
        sizes = [source.bytes or 0 for source in sources]
        for index in range(self._start.source, len(sources)):
            before = sum(sizes[:index])
            for piece in self._sorted(index, sources[index]):
                if self._held >= self._size:
                    yield self._job(before + piece.read)
            self._place = (index + 1, 0, 0)
        yield self._job(sum(sizes))

    def _sorted(self, index: int, source: Source) -> Iterator[Piece]:
        """The pieces of one source, each once it lies on its pile."""
        done = self._place[1:]
        reading = Reading(self._bad, self._sorting.text_field, done[0])
        nth, side = 0, TRAIN
        for piece in read_source(source, reading):
            try:
                data, broken = piece.text.encode(), False
            except UnicodeEncodeError:
                data, broken = piece.text.encode("utf-8", "surrogatepass"), True
            if nth == 0:
                side = VALIDATION if held_out(data, self._sorting.validation_share) else TRAIN
            if (piece.record, nth) >= done:  # else it was read before, and only says the side
                kept = piece
                if broken:
                    where = f"{source.name}, document {piece.record + 1}"
                    self._bad.meet(where, "no text: it has stray bytes or half characters")
                    kept, data = piece._replace(text=""), b""
                self._add(kept, len(data), nth == 0, side, broken)
                place = (piece.record + 1, 0) if piece.last else (piece.record, nth + 1)
                self._place = (index, *place)
                yield piece
            nth = 0 if piece.last else nth + 1

    def _add(self, piece: Piece, text_bytes: int, begins: bool, side: int, broken: bool) -> None:
        """Put a piece on its pile; of a long document that has a broken one, the rest is kept."""
        if begins and piece.last and (not text_bytes or piece.text.isspace()):
            self._blank += not broken
            return
        self._piles[side].add(piece.text, begins, piece.last, text_bytes)
        self._held += len(piece.text)

    def _job(self, read: int) -> PieceJob:
        source, record, pieces = self._place
        reached = replace(
            self._start,
            source=source,
            record=record,
            pieces=pieces,
            skipped=self._bad.count,
            blank=self._blank,
        )
        job = PieceJob(self._piles, reached, read)
        self._piles, self._held = (Pile(), Pile()), 0
        return job
