"""Files that other libraries wrote come out as the documents that went in, in bounded pieces."""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from open_mythos.data import readers
from open_mythos.data.corpus import SEPARATOR, split_documents
from open_mythos.data.readers import (
    BadRecords,
    Piece,
    Reader,
    Reading,
    pieces,
    read_lines,
    read_parquet,
    read_text,
)
from open_mythos.data.tokenizer import BPETokenizer
from open_mythos.errors import InputError, MissingExtraError


DOCUMENTS = ["one", "héllo\n", '"quoted"\tand \u2028 more', "\x00\x1f", "東京 " * 500, "last"]
# Written by polars 2.1.0 (Rust, not Arrow's C++): two row groups, snappy.
POLARS = Path(__file__).parent / "assets" / "polars.parquet"


def whole(found: Iterator[Piece]) -> list[str]:
    """Documents put together again; records, and the last piece of each, must be as declared."""
    documents: dict[int, str] = {}
    ended: set[int] = set()
    for piece in found:
        assert piece.record not in ended
        assert piece.read >= 0
        documents[piece.record] = documents.get(piece.record, "") + piece.text
        ended |= {piece.record} if piece.last else set()
    assert ended == set(documents)
    assert list(documents) == sorted(documents)
    return list(documents.values())


def reading(skip: bool = False, field: str = "text", first: int = 0) -> Reading:
    return Reading(BadRecords(skip), field, first)


def lines(documents: Sequence[str]) -> bytes:
    return b"".join(json.dumps({"id": 1, "text": text}).encode() + b"\n" for text in documents)


# -- what others wrote ---------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "codec"), [("", None), (".gz", "gzip"), (".zst", "zstd")])
@pytest.mark.parametrize("last_newline", [True, False])
def test_lines_packed_by_arrow(
    tmp_path: Path, ending: str, codec: str | None, last_newline: bool
) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    content = lines(DOCUMENTS) if last_newline else lines(DOCUMENTS)[:-1]
    with pa.OSFile(str(path), "wb") as raw:
        stream = raw if codec is None else pa.CompressedOutputStream(raw, codec)
        stream.write(content)
        stream.close()
    assert whole(read_lines(path, reading())) == DOCUMENTS
    assert whole(read_lines(path, reading(first=2))) == DOCUMENTS[2:]


def test_archives_of_several_members(tmp_path: Path) -> None:
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(lines(DOCUMENTS[:2])) + gzip.compress(lines(DOCUMENTS[2:])))
    assert whole(read_lines(packed, reading())) == DOCUMENTS
    frames = tmp_path / "a.jsonl.zst"
    codec = pa.Codec("zstd")
    halves = (lines(DOCUMENTS[:2]), lines(DOCUMENTS[2:]))
    frames.write_bytes(b"".join(codec.compress(half, asbytes=True) for half in halves))
    assert whole(read_lines(frames, reading())) == DOCUMENTS


def test_parquet_written_by_polars() -> None:
    assert whole(read_parquet(POLARS, reading())) == ["one", "héllo\n", "", "four"]
    for first in range(5):
        rest = list(read_parquet(POLARS, reading(first=first)))
        assert [piece.record for piece in rest] == list(range(first, 4))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_parquet_of_any_string_type_and_row_group(
    tmp_path: Path, kind: pa.DataType, rows: int
) -> None:
    columns = {"id": [{"a": i} for i in range(6)], "body": pa.array(DOCUMENTS, kind)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=rows)
    for first in (0, 3):
        found = whole(read_parquet(tmp_path / "a.parquet", reading(field="body", first=first)))
        assert found == DOCUMENTS[first:]


def test_the_place_in_a_file_grows_to_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(DOCUMENTS))
    assert list(read_lines(path, reading()))[-1].read == path.stat().st_size
    assert list(read_parquet(POLARS, reading()))[-1].read == POLARS.stat().st_size
    (tmp_path / "a.txt").write_text("some text")
    assert list(read_text(tmp_path / "a.txt", reading()))[-1].read == 9


# -- text ----------------------------------------------------------------------------------------

prose = st.text("ab é \n\f", max_size=120)


@given(text=prose, size=st.integers(2, 40))
def test_text_comes_apart_as_the_corpus_does(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(text, encoding="utf-8", newline="\n")
    found = list(read_text(path, reading(), size))
    assert [t for t in whole(iter(found)) if t.strip()] == split_documents(text)
    # In a stream a document is cut exactly where it is cut when all of it is known.
    parts = [part.strip("\n") for part in text.split(SEPARATOR)]
    expected = [
        (record, piece.text, piece.last)
        for record, part in enumerate(parts)
        for piece in pieces(record, part, 0, size)
    ]
    if not parts[-1]:
        expected.pop()
    assert [(p.record, p.text, p.last) for p in found if p.text or not p.last] == [
        e for e in expected if e[1]
    ]


def test_text_goes_on_at_a_record(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\fa longer second one\fthree")
    found = list(read_text(path, reading(first=1), 8))
    assert "".join(p.text for p in found if p.record == 1) == "a longer second one"
    assert found[-1] == Piece(2, "three", True, 29)


def test_dos_line_ends_are_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\r\n\f\r\nthree")
    assert whole(read_text(tmp_path / "a.txt", reading())) == ["one\ntwo", "three"]


def test_bytes_that_are_no_text_stay_marked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("gut\fsch\xf6n\fgut".encode("latin-1"))
    assert whole(read_text(tmp_path / "a.txt", reading())) == ["gut", "sch\udcf6n", "gut"]


# -- long documents ------------------------------------------------------------------------------


@given(text=st.text("ab \n", max_size=200), size=st.integers(2, 50))
def test_pieces_lose_nothing_and_stay_small(text: str, size: int) -> None:
    found = list(pieces(7, text, 5, size))
    assert "".join(piece.text for piece in found) == text
    assert [piece.last for piece in found] == [False] * (len(found) - 1) + [True]
    assert all(0 < len(piece.text) <= size for piece in found[:-1])
    assert all(piece[0] == 7 and piece[3] == 5 for piece in found)


def test_tokens_of_pieces_are_those_of_the_whole() -> None:
    from open_mythos.data.corpus import plays_text

    text, plays = plays_text()[:60_000], BPETokenizer.plays()
    found = list(pieces(0, text, 0, 1000))
    assert len(found) > 60
    assert [i for piece in found for i in plays.encode(piece.text)] == plays.encode(text)


def test_without_a_space_a_line_break_or_nothing_serves() -> None:
    assert [p.text for p in pieces(0, "aaaa\nbbbbbbb", 0, 7)] == ["aaaa\n", "bbbbbbb"]
    assert [p.text for p in pieces(0, "a" * 10, 0, 4)] == ["aaaa", "aaaa", "aa"]


# -- what is wrong -------------------------------------------------------------------------------

BAD_LINES = {
    b"{oops": r"line 2: no JSON \(",
    b"[1, 2]": "line 2: no JSON object but list",
    b'{"body": "x", "id": 1}': r"no field 'text' \(its fields: 'body', 'id'; choose one with",
    b'{"text": null}': "field 'text' holds no text but None",
    b'{"text": ["x"]}': r"holds no text but \['x'\]",
    b"[" * 100_000: "nested too deeply",
    b"\xff\xfe{}": "no JSON",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_named_or_counted(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(["one"]) + line + b"\n\n  \n" + lines(["two"]))
    with pytest.raises(InputError, match=f"a.jsonl, .*{BAD_LINES[line]}.*--skip-bad"):
        list(read_lines(path, reading()))
    lenient = reading(skip=True)
    assert whole(read_lines(path, lenient)) == ["one", "two"]
    assert lenient.bad.count == 1


def test_a_line_beyond_all_measure_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LONGEST_LINE", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(["one", "x" * 1000, "two", "y" * (100 - len(lines([""])))]))
    lenient = reading(skip=True)
    assert whole(read_lines(path, lenient)) == ["one", "two", "y" * (100 - len(lines([""])))]
    assert lenient.bad.count == 1
    with pytest.raises(InputError, match="line 2: more than 0 MiB"):
        list(read_lines(path, reading()))


def test_a_row_without_text_is_named_or_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one", None, "two"]}), path)
    with pytest.raises(InputError, match=r"a\.parquet, row 2: field 'text' holds no text but None"):
        list(read_parquet(path, reading()))
    lenient = reading(skip=True)
    assert whole(read_parquet(path, lenient)) == ["one", "two"]
    assert lenient.bad.count == 1
    with pytest.raises(InputError, match=r"no column 'body' \(its columns: 'text'\)"):
        list(read_parquet(path, reading(field="body")))
    # Arrow itself does not look whether bytes that are declared text are text.
    broken = pa.array([b"gut", b"sch\xf6n"]).view(pa.string())
    pq.write_table(pa.table({"text": broken}), path)
    with pytest.raises(InputError, match=r"row 2: not UTF-8 \(byte 3\)"):
        list(read_parquet(path, reading()))


@pytest.mark.parametrize(
    ("name", "reader"),
    [("a.jsonl.gz", read_lines), ("a.jsonl.zst", read_lines), ("a.parquet", read_parquet)],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, reader: Reader) -> None:
    path = tmp_path / name
    path.write_bytes(b"not what the name says, and long enough for a footer")
    with pytest.raises(InputError, match=rf"{name}.*cannot be read to its end \(.*fetch it again"):
        list(reader(path, reading()))


def test_an_archive_that_was_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(DOCUMENTS))[:-20])
    with pytest.raises(InputError, match="cannot be read to its end"):
        list(read_lines(path, reading()))


@pytest.mark.parametrize(
    ("package", "name", "reader"),
    [("zstandard", "a.jsonl.zst", read_lines), ("pyarrow.parquet", "a.parquet", read_parquet)],
)
def test_the_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str, reader: Reader
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(MissingExtraError, match=rf"{name}.*open-mythos\[data\]"):
        list(reader(tmp_path / name, reading()))
