"""Readers: a file's records as text, one after the other, in bounded memory."""

import gzip
import importlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from open_mythos.data.corpus import SEPARATOR
from open_mythos.errors import InputError, MissingExtraError


# Characters of a piece: about what a tokenizer is given at once.
PIECE = 1 << 20
# Bytes of one line of JSON. Parsed, it takes up to six times as much memory.
LONGEST_LINE = 1 << 26
BUFFER = 1 << 20
# Bytes of text that are asked of a parquet file at once, and rows, should some be much longer.
PARQUET_BYTES = 1 << 22
MOST_ROWS = 16


class Piece(NamedTuple):
    """A document, or a part of a long one.

    Attributes:
        record: The document's place in its file, from 0: of a line, a row, or between separators.
        text: Its text, or the next part of it.
        last: Whether the document ends here.
        read: Bytes of the file that had been read by then, roughly.
    """

    record: int
    text: str
    last: bool
    read: int


@dataclass
class BadRecords:
    """What becomes of a record that holds no text: an error, or a count.

    Attributes:
        skip: Leave such records out, and count them.
        count: How many were left out.
        first: What was said of the first of them.
    """

    skip: bool = False
    count: int = 0
    first: str | None = field(default=None)

    def meet(self, where: str, what: str) -> None:
        """Count a bad record.

        Raises:
            InputError: Unless such records are skipped.
        """
        if not self.skip:
            raise InputError(f"{where}: {what}; mend it, or leave such records out (--skip-bad)")
        self.count += 1
        self.first = self.first or f"{where}: {what}"


@dataclass(frozen=True)
class Reading:
    """How a source is to be read.

    Attributes:
        bad: What to do with records without text.
        text_field: Where a record has several fields: the one that is its text.
        first: Records to pass over, unparsed; they were read before.
    """

    bad: BadRecords
    text_field: str = "text"
    first: int = 0


Reader = Callable[[Path, Reading], Iterator[Piece]]
Readline = Callable[[int], bytes]


def read_text(path: Path, reading: Reading, size: int = PIECE) -> Iterator[Piece]:
    """The documents of a text file, parted by form feeds; a file without any is one document.

    Documents are those of `split_documents`, line breaks around them dropped. Bytes that are not
    UTF-8 come out as lone surrogates, for the caller to find.
    """
    return (piece for piece in _parted(path, size) if piece.record >= reading.first)


def _parted(path: Path, size: int) -> Iterator[Piece]:
    record, begun, held = 0, False, ""  # held: what was read of the record and not yet handed out
    # Universal newlines, as in `corpus_text`.
    with (
        path.open("rb") as raw,
        io.TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape") as file,
    ):
        while chunk := file.read(size):
            *ends, held = (held + chunk).split(SEPARATOR)
            read = raw.tell()
            for end in ends:
                text = end.rstrip("\n") if begun else end.strip("\n")
                yield from pieces(record, text, read, size)
                record, begun = record + 1, False
            held = held if begun else held.lstrip("\n")
            for part in pieces(record, held.rstrip("\n"), read, size):
                if not part.last:
                    held, begun = held[len(part.text) :], True
                    yield part
        text = held.rstrip("\n")
        if begun or text:
            yield from pieces(record, text, raw.tell(), size)


def read_lines(path: Path, reading: Reading) -> Iterator[Piece]:
    """The documents of a file of JSON objects, one a line, plain or packed by gzip or Zstandard.

    Raises:
        InputError: On a line without text, unless such are skipped, or a damaged archive.
        MissingExtraError: Without `zstandard`, for a file that needs it.
    """
    with path.open("rb", buffering=BUFFER) as raw:
        readline, errors = _unpacked(path, raw)
        try:
            yield from _parsed(path, readline, raw, reading)
        except errors as error:
            raise _damaged(path, error) from error


def _unpacked(path: Path, raw: BinaryIO) -> tuple[Readline, tuple[type[Exception], ...]]:
    """The lines of a file, and how a damaged one makes itself known."""
    if path.suffix.lower() == ".gz":
        return gzip.GzipFile(fileobj=raw).readline, (OSError, EOFError, zlib.error)
    if path.suffix.lower() != ".zst":
        return raw.readline, (OSError,)
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError as error:
        raise MissingExtraError("zstandard", "data", f"reading {str(path)!r}") from error
    stream = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    return io.BufferedReader(stream, BUFFER).readline, (OSError, zstandard.ZstdError)


def _parsed(path: Path, readline: Readline, raw: BinaryIO, reading: Reading) -> Iterator[Piece]:
    number = 0
    while line := readline(LONGEST_LINE):
        if number >= reading.first and not line.isspace():
            text = _text_of(line, reading, f"{path}, line {number + 1}")
            if text is not None:
                yield from pieces(number, text, raw.tell())
            del text  # it may be long, and the next one is made before this name is used again
        while line and not line.endswith(b"\n"):  # the rest of a line that is too long
            line = readline(LONGEST_LINE)
        number += 1


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{str(path)!r} cannot be read to its end ({error}); fetch it again")


def _text_of(line: bytes, reading: Reading, where: str) -> str | None:
    """The text of a line of JSON; None where it holds none and that is not an error."""
    if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
        reading.bad.meet(where, f"more than {LONGEST_LINE >> 20} MiB; a document is shorter")
        return None
    try:
        record = json.loads(line)
    except ValueError as error:
        reading.bad.meet(where, f"no JSON ({error})")
        return None
    except RecursionError:
        reading.bad.meet(where, "JSON nested too deeply")
        return None
    if not isinstance(record, dict):
        reading.bad.meet(where, f"no JSON object but {type(record).__name__}")
        return None
    return text_in(record, reading, where)


def text_in(record: dict[str, Any], reading: Reading, where: str) -> str | None:
    """The text field of a record; None where there is none and that is not an error."""
    text = record.get(reading.text_field)
    if isinstance(text, str):
        return text
    if reading.text_field in record:
        found = f"field {reading.text_field!r} holds no text but {text!r:.40}"
    else:
        names = ", ".join(map(repr, sorted(map(str, record))[:8])) or "none"
        found = f"no field {reading.text_field!r} (its fields: {names}; choose one with --field)"
    reading.bad.meet(where, found)
    return None


def read_parquet(path: Path, reading: Reading) -> Iterator[Piece]:
    """The documents of a parquet file, one a row, read a few rows at a time.

    Raises:
        InputError: On a row without text, unless such are skipped, or a file that is no parquet
            or has no such column.
        MissingExtraError: Without `pyarrow`.
    """
    try:
        arrow, parquet = (importlib.import_module(f"pyarrow{name}") for name in ("", ".parquet"))
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", f"reading {str(path)!r}") from error
    try:
        with parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
            names = file.schema_arrow.names
            if reading.text_field not in names:
                raise InputError(
                    f"{str(path)!r} has no column {reading.text_field!r} (its columns: "
                    f"{', '.join(map(repr, names))}); choose one with --field"
                )
            yield from _rows(path, file, reading)
    except (arrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _rows(path: Path, file: Any, reading: Reading) -> Iterator[Piece]:
    column = file.schema_arrow.names.index(reading.text_field)
    size, total = path.stat().st_size, max(file.metadata.num_rows, 1)
    number = 0
    for group in range(file.metadata.num_row_groups):
        about = file.metadata.row_group(group)
        if number + about.num_rows <= reading.first:
            number += about.num_rows
            continue
        # Columns are flat leaves: a nested one before this shifts the index, which costs speed only
        leaf = min(column, about.num_columns - 1)
        mean = about.column(leaf).total_uncompressed_size / max(about.num_rows, 1)
        rows = int(min(max(PARQUET_BYTES / max(mean, 1), 1), MOST_ROWS))
        for batch in file.iter_batches(rows, [group], columns=[reading.text_field]):
            for value in batch.column(0):
                if number >= reading.first:
                    where = f"{path}, row {number + 1}"
                    text = _value(value, reading, where)
                    if text is not None:
                        yield from pieces(number, text, size * (number + 1) // total)
                    del text  # as above
                number += 1


def _value(value: Any, reading: Reading, where: str) -> str | None:
    try:
        return text_in({reading.text_field: value.as_py()}, reading, where)
    except UnicodeDecodeError as error:
        reading.bad.meet(where, f"not UTF-8 (byte {error.start})")
        return None


# -- long documents ------------------------------------------------------------------------------


def pieces(record: int, text: str, read: int, size: int = PIECE) -> Iterator[Piece]:
    """A document cut into pieces of at most `size` characters.

    Where a piece ends depends on its own characters alone, so that a document that is read bit by
    bit comes apart as one that is known whole.
    """
    begin = 0
    while len(text) - begin > size:
        end = _seam(text, begin, size)
        yield Piece(record, text[begin:end], False, read)
        begin = end
    yield Piece(record, text[begin:] if begin else text, True, read)


def _seam(text: str, begin: int, size: int) -> int:
    """Where to cut the text after `begin`, within `size` characters.

    Before a single space, if the second half has one, else behind a single line break: there
    tokenizers that part words part anyway, so that the pieces' tokens are those of the whole.
    """
    for mark, behind in ((" ", 0), ("\n", 1)):
        end = begin + size - 1
        while (end := text.rfind(mark, begin + size // 2, end)) >= 0:
            if not (text[end - 1].isspace() or text[end + 1].isspace()):
                return end + behind
    return begin + size
