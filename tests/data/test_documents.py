"""Names lead to files in an order that does not change, or to an error that says why not."""

from pathlib import Path

import pytest

from open_mythos.data import documents
from open_mythos.data.documents import find_sources, read_source
from open_mythos.data.readers import BadRecords, Reading, read_lines, read_parquet, read_text
from open_mythos.errors import InputError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.txt", "a/z.jsonl", "a/b/c.parquet", "a.JSONL.GZ", "README.md", "d.jsonl.zst"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    for hidden in (".cache/x.txt", "a/.y.txt"):
        path = tmp_path / hidden
        path.parent.mkdir(exist_ok=True)
        path.write_text("hidden")
    return tmp_path


def test_a_folder_is_its_known_files_in_order(tree: Path) -> None:
    found = find_sources([str(tree)])
    names = [Path(source.name).relative_to(tree).as_posix() for source in found]
    assert names == ["a.JSONL.GZ", "a/b/c.parquet", "a/z.jsonl", "b.txt", "d.jsonl.zst"]
    readers = [source.reader for source in found]
    assert readers == [read_lines, read_parquet, read_lines, read_text, read_lines]
    for source, name in zip(found, names, strict=True):
        assert source.bytes == len(name)
        assert source.changed == (tree / name).stat().st_mtime_ns


def test_sources_keep_the_order_they_are_named_in(tree: Path) -> None:
    asked = [str(tree / "d.jsonl.zst"), str(tree / "a"), str(tree / "b.txt")]
    found = [Path(source.name).name for source in find_sources(asked)]
    assert found == ["d.jsonl.zst", "c.parquet", "z.jsonl", "b.txt"]


def test_hub_ids_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(documents, "require_hub", asked.append)
    monkeypatch.setattr(documents, "read_hub", lambda name, reading: iter([name, reading]))
    names = ["owner/name", "owner/na-me.2:sub_set", "owner/name:subset:train"]
    found = find_sources([names[0], f"hf:{names[1]}", names[2]])
    assert asked == names == [source.name for source in found]
    assert all(source.reader is None and source.bytes is None for source in found)
    reading = Reading(BadRecords())
    assert list(read_source(found[1], reading)) == [names[1], reading]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.txt", "no file or folder 'nowhere.txt'"),
        ("owner/data.jsonl", "no file or folder 'owner/data.jsonl'"),
        ("owner/name:a:b:c", "no file or folder"),
        ("/owner/name", "no file or folder"),
        ("README.md", "none of the known kinds: .txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet"),
        ("empty", "'empty' holds no file that ends in .txt, "),
    ],
)
def test_what_leads_nowhere_is_named(
    tree: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.chdir(tree)
    (tree / "empty").mkdir()
    with pytest.raises(InputError, match=words):
        find_sources([name])


def test_no_source_is_an_error() -> None:
    with pytest.raises(InputError, match="no source is named"):
        find_sources([])


def test_a_file_that_vanishes_is_named(tree: Path) -> None:
    (source,) = find_sources([str(tree / "b.txt")])
    (tree / "b.txt").unlink()
    with pytest.raises(InputError, match=r"cannot read '.*b\.txt': No such file"):
        list(read_source(source, Reading(BadRecords())))
