"""From names to documents: files, folders and hub ids, read in an order that never changes."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from open_mythos.data.hub_documents import read_hub, require_hub
from open_mythos.data.readers import (
    Piece,
    Reader,
    Reading,
    read_lines,
    read_parquet,
    read_text,
)
from open_mythos.errors import InputError


READERS: dict[str, Reader] = {
    ".txt": read_text,
    ".jsonl": read_lines,
    ".jsonl.gz": read_lines,
    ".jsonl.zst": read_lines,
    ".parquet": read_parquet,
}
# Says that a name is meant for the hub, whatever there is on disk.
HUB = "hf:"
# owner/name, and after colons a subset and a split.
HUB_DATA = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+){0,2}")


@dataclass(frozen=True)
class Source:
    """A file, or a data set of the Hugging Face hub.

    Attributes:
        name: Path, or hub id.
        reader: How the file is read; None for the hub.
        bytes: The file's size; None where it is not known.
        changed: When the file was last changed, in ns; 0 where it is not known.
    """

    name: str
    reader: Reader | None
    bytes: int | None = None
    changed: int = 0


def find_sources(names: Sequence[str]) -> list[Source]:
    """The files behind names of files and folders, and the hub ids among them, in order.

    A folder stands for all files below it of a known kind, sorted by their path in it; hidden ones
    are left out. What is no path and looks like `owner/name[:subset[:split]]`, with or without
    `hf:` before it, is a hub id.

    Raises:
        InputError: On a name that leads nowhere, a folder without such files, another kind of
            file, or a hub id where no hub answers.
    """
    if not names:
        raise InputError("no source is named; give files, folders or Hugging Face ids")
    found: list[Source] = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            found += _folder(path)
        elif path.is_file():
            found.append(_file(path))
        elif HUB_DATA.fullmatch(hub := name.removeprefix(HUB)) and _kind(path) is None:
            require_hub(hub)
            found.append(Source(hub, None))
        else:
            raise InputError(f"there is no file or folder {name!r}")
    return found


def read_source(source: Source, reading: Reading) -> Iterator[Piece]:
    """The pieces of a source's documents, from record `reading.first` on.

    Raises:
        InputError: On what cannot be read.
        MissingExtraError: Without the package that reads it.
    """
    if source.reader is None:
        yield from read_hub(source.name, reading)
        return
    try:
        yield from source.reader(Path(source.name), reading)
    except OSError as error:
        raise InputError(f"cannot read {source.name!r}: {error.strerror or error}") from error


def _folder(folder: Path) -> list[Source]:
    below = (path for path in folder.rglob("*") if path.is_file() and _kind(path))
    inside = {path.relative_to(folder).as_posix(): path for path in below}
    names = [name for name in sorted(inside) if not f"/{name}".count("/.")]
    if not names:
        raise InputError(f"{str(folder)!r} holds no file that ends in {', '.join(READERS)}")
    return [_file(inside[name]) for name in names]


def _file(path: Path) -> Source:
    kind = _kind(path)
    if kind is None:
        raise InputError(f"{str(path)!r} is none of the known kinds: {', '.join(READERS)}")
    about = path.stat()
    return Source(str(path), READERS[kind], about.st_size, about.st_mtime_ns)


def _kind(path: Path) -> str | None:
    """The known ending of a file's name."""
    return next((end for end in READERS if path.name.lower().endswith(end)), None)
