"""Journal: how much of an unfinished folder is safely on disk, and where reading goes on."""

from dataclasses import dataclass, field
from pathlib import Path

from open_mythos.checkpoint.files import read_json, write_json
from open_mythos.config.overrides import from_plain, to_plain
from open_mythos.data.prepared import SPLITS, FileRecord, Split
from open_mythos.errors import ConfigError, DamagedError, InputError


JOURNAL = "unfinished.json"


@dataclass(frozen=True, kw_only=True)
class Journal:
    """The state of a preparation after some piece of text.

    Attributes:
        request: Checksum of what decides the result.
        source: Sources that were read to their end.
        record: Records of the next one that were read whole.
        pieces: Pieces of the record after those that were read.
        skipped: Bad records left out so far.
        blank: Documents without a visible character left out so far.
        splits: What was written.
        files: Checksums of the shards that are full, and at the end of every file.
    """

    request: str
    source: int = 0
    record: int = 0
    pieces: int = 0
    skipped: int = 0
    blank: int = 0
    splits: dict[str, Split] = field(default_factory=lambda: {name: Split() for name in SPLITS})
    files: dict[str, FileRecord] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens written."""
        return sum(split.tokens for split in self.splits.values())

    def save(self, folder: Path) -> None:
        """Write it, in one step; what it counts must be on disk already."""
        write_json(folder / JOURNAL, to_plain(self))


def open_journal(folder: Path, request: str) -> Journal:
    """The journal of an unfinished folder, or that of a start in an empty one.

    Raises:
        InputError: If the folder holds something else, or was begun with another request.
        DamagedError: If the journal cannot be read.
    """
    path = folder / JOURNAL
    if not path.is_file():
        strangers = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        if strangers:
            raise InputError(
                f"{str(folder)!r} holds other files ({strangers[0]} ...); give a new folder"
            )
        return _begun(folder, request)
    try:
        journal = from_plain(Journal, read_json(path))
    except ConfigError as error:
        raise DamagedError(
            f"{path} is damaged ({error}); delete the folder and start over"
        ) from None
    if journal.request != request and not journal.tokens:
        return _begun(folder, request)
    if journal.request != request:
        raise InputError(
            f"{str(folder)!r} was begun with other settings, another tokenizer or other source "
            "files; repeat those, or delete it and start over"
        )
    return journal


def _begun(folder: Path, request: str) -> Journal:
    journal = Journal(request=request)
    journal.save(folder)
    return journal
