import json
import os
from pathlib import Path

import pytest

from open_mythos.checkpoint import files
from open_mythos.checkpoint.files import (
    MANIFEST,
    atomic_folder,
    check_file,
    check_folder,
    manifest_entry,
    read_json,
    remove_temporaries,
    write_json,
    write_manifest,
    write_text,
)
from open_mythos.errors import CheckpointError, DamagedError


def fill(path: Path, text: str) -> None:
    with atomic_folder(path) as folder:
        (folder / "a.txt").write_text(text)
        (folder / "deep").mkdir()
        (folder / "deep" / "b.txt").write_text(text * 2)


def content(path: Path) -> dict[str, str]:
    return {str(p.relative_to(path)): p.read_text() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("can_swap", [True, False], ids=["one call", "two renames"])
def test_a_folder_is_replaced_whole_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_swap: bool
) -> None:
    if not can_swap:
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    target = tmp_path / "parent" / "target"
    fill(target, "old")
    (target / "only-old").write_text("gone with the old folder")
    fill(target, "new")
    assert content(target) == {"a.txt": "new", "deep/b.txt": "newnew"}
    assert list(target.parent.iterdir()) == [target]


def test_an_error_while_writing_leaves_the_old_folder_and_no_trace(tmp_path: Path) -> None:
    target = tmp_path / "target"
    fill(target, "old")
    before = content(tmp_path)

    def half(path: Path) -> None:
        with atomic_folder(path) as folder:
            (folder / "a.txt").write_text("half")
            raise KeyboardInterrupt

    for path in (target, tmp_path / "never"):
        with pytest.raises(KeyboardInterrupt):
            half(path)
        assert content(tmp_path) == before
        assert list(tmp_path.iterdir()) == [target]


def test_if_the_second_rename_fails_the_first_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    fill(target, "old")
    monkeypatch.setattr(files, "exchange", lambda one, other: False)
    rename = Path.rename

    def fail_on_fresh(self: Path, to: Path) -> Path:
        if to == target and not self.name.endswith("-old"):
            raise OSError("disk says no")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail_on_fresh)
    with pytest.raises(OSError, match="disk says no"):
        fill(target, "new")
    assert content(target)["a.txt"] == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_swap_of_two_folders_is_a_swap(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.mkdir()
        (path / "name").write_text(path.name)
    if not files.exchange(one, other):
        pytest.skip("this system cannot swap two names at once")
    assert ((one / "name").read_text(), (other / "name").read_text()) == ("other", "one")


def test_new_folders_and_files_have_ordinary_permissions(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.mkdir()
    (ordinary / "file").write_text("x")
    fill(tmp_path / "target", "x")
    write_text(tmp_path / "text", "x")
    assert (tmp_path / "target").stat().st_mode == ordinary.stat().st_mode
    assert (tmp_path / "text").stat().st_mode == (ordinary / "file").stat().st_mode


def test_a_file_is_no_target_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="file"), atomic_folder(tmp_path / "file"):
        pass


def test_only_temporaries_are_swept(tmp_path: Path) -> None:
    fill(tmp_path / "step", "x")
    (tmp_path / ".hidden").write_text("mine")
    left = tmp_path / ".step.tmp-abc"
    left.mkdir()
    (left / "half").write_text("x")
    (tmp_path / ".latest.tmp-x").write_text("half")
    assert {p.name for p in remove_temporaries(tmp_path)} == {".step.tmp-abc", ".latest.tmp-x"}
    assert {p.name for p in tmp_path.iterdir()} == {"step", ".hidden"}


# -- JSON ----------------------------------------------------------------------------------------


def test_json_comes_back_with_every_bit_of_its_floats(tmp_path: Path) -> None:
    value = {"x": [0.1 + 0.2, 1e-308, -0.0, 2**60], "y": None, "z": {"ä": True}}
    write_json(tmp_path / "v.json", value)
    assert read_json(tmp_path / "v.json") == value


def test_json_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.json"
    write_json(path, {"x": 1})
    with pytest.raises(CheckpointError, match="store None"):
        write_json(path, {"x": float("nan")})

    def full(fd: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"x": 2})
    assert read_json(path) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_and_missing_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    with pytest.raises(CheckpointError, match=r"v\.json does not exist"):
        read_json(path)
    path.write_text(json.dumps({"x": 1})[:-2])
    with pytest.raises(CheckpointError, match=r"v\.json is damaged or truncated"):
        read_json(path)


# -- checksums -----------------------------------------------------------------------------------


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    with atomic_folder(tmp_path / "sealed") as folder:
        (folder / "data.bin").write_bytes(os.urandom(5000))
        (folder / "deep").mkdir()
        (folder / "deep" / "more.bin").write_bytes(os.urandom(10))
        write_manifest(folder)
    return tmp_path / "sealed"


def test_an_untouched_folder_passes(sealed: Path) -> None:
    check_folder(sealed)
    assert check_file(sealed, "data.bin", sealed=True) == sealed / "data.bin"


@pytest.mark.parametrize("position", [0, 2500, 4999])
def test_one_changed_bit_is_seen(sealed: Path, position: int) -> None:
    data = bytearray((sealed / "data.bin").read_bytes())
    data[position] ^= 1
    (sealed / "data.bin").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"data\.bin is not what was written"):
        check_folder(sealed)
    check_file(sealed, "deep/more.bin")


def test_a_truncated_and_a_missing_file_are_told_apart(sealed: Path) -> None:
    with (sealed / "data.bin").open("r+b") as file:
        file.truncate(4999)
    with pytest.raises(CheckpointError, match=r"data\.bin has 4999 bytes, 5000 were written"):
        check_file(sealed, "data.bin")
    (sealed / "data.bin").unlink()
    with pytest.raises(CheckpointError, match=r"data\.bin does not exist"):
        check_folder(sealed)


def test_without_a_manifest_a_file_passes_only_where_none_is_asked_for(sealed: Path) -> None:
    (sealed / MANIFEST).unlink()
    check_file(sealed, "data.bin")
    with pytest.raises(CheckpointError, match="manifest"):
        check_file(sealed, "data.bin", sealed=True)
    with pytest.raises(CheckpointError, match="manifest"):
        check_folder(sealed)


def test_a_file_that_the_manifest_does_not_list_is_a_stranger(sealed: Path) -> None:
    (sealed / "new.bin").write_text("x")
    check_file(sealed, "new.bin")
    with pytest.raises(CheckpointError, match=r"does not list new\.bin"):
        check_file(sealed, "new.bin", sealed=True)


def test_a_manifest_that_is_none_is_refused(sealed: Path) -> None:
    (sealed / MANIFEST).write_text("[]")
    with pytest.raises(CheckpointError, match="no manifest"):
        check_folder(sealed)


def test_processes_share_the_checking_of_a_folder(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"file{number}").write_text(str(number))
    write_manifest(tmp_path)
    (tmp_path / "file3").write_text("x")
    refused = []
    for part in range(2):
        try:
            check_folder(tmp_path, part, 2)
        except DamagedError as error:
            refused.append((part, "file3" in str(error)))
    assert refused == [(1, True)]


def test_a_manifest_takes_the_word_of_who_wrote_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    known = {"a": {"bytes": 1, "sha256": "known"}}
    write_manifest(tmp_path, known)
    files = read_json(tmp_path / "manifest.json")["files"]
    assert files["a"] == known["a"]
    assert files["b"] == manifest_entry(tmp_path / "b")
