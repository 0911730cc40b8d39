"""Prepared text: a folder of token files, what it says of itself, and how it is opened."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from open_mythos.checkpoint.files import MANIFEST, digest, read_json
from open_mythos.config.overrides import from_plain
from open_mythos.data.shards import StartArray, TokenShards
from open_mythos.data.tokenizer import Tokenizer, tokenizer_from_folder
from open_mythos.errors import ConfigError, DamagedError, InputError


SplitName = Literal["train", "validation"]

FORMAT = "open_mythos tokens 1"
TOKENIZER = "tokenizer"
START_BYTES = 8
# Documents whose lengths are looked at together.
CHUNK = 1 << 20
SPLITS: tuple[SplitName, ...] = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class Split:
    """How much one side of the validation split holds.

    Attributes:
        documents: Documents; each lies on one side, whole.
        tokens: Tokens, the end-of-text token of each document included.
        text_bytes: Bytes of the text that they spell, in UTF-8.
    """

    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a file was when it was written.

    Attributes:
        bytes: Its size.
        sha256: Its checksum, in hexadecimal.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a prepared folder says of itself; the last file to be written, so a sign of the end.

    Attributes:
        format: FORMAT.
        request: Checksum of the settings and source files that it was made from.
        sources: What was read, as the user named it.
        source_files: Files among it.
        source_bytes: Their size, as they are on disk; 0 where it is not known.
        text_field: Field of a record that is its text.
        tokenizer: The tokenizer's name at the time; the folder holds the tokenizer itself.
        vocab_size: Every token is below it.
        eos_id: Token that ends each document.
        dtype: Of the tokens on disk, little endian.
        shard_tokens: Tokens of every shard but a split's last.
        validation_share: Chance of a document to be held out.
        skipped: Bad records that were left out.
        blank: Documents without a visible character, left out too.
        splits: What there is for training and for validation.
        files: Every other file of the folder.
        versions: Of what decides which tokens a text becomes.
    """

    format: str = FORMAT
    request: str
    sources: tuple[str, ...]
    source_files: int
    source_bytes: int
    text_field: str
    tokenizer: str
    vocab_size: int
    eos_id: int
    dtype: Literal["uint16", "uint32"]
    shard_tokens: int
    validation_share: float
    skipped: int = 0
    blank: int = 0
    splits: dict[str, Split] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A folder that `open-mythos data prepare` finished.

    Attributes:
        folder: Where it is.
        manifest: What it holds.
    """

    folder: Path
    manifest: Manifest

    def tokens(self, split: SplitName) -> TokenShards:
        """The tokens of one split, as memory maps."""
        dtype = np.dtype(self.manifest.dtype).newbyteorder("<")
        count = -(-self.manifest.splits[split].tokens // self.manifest.shard_tokens)
        paths = [self.folder / shard_name(split, index) for index in range(count)]
        return TokenShards(tuple(np.memmap(path, dtype, mode="r") for path in paths), dtype)

    def starts(self, split: SplitName) -> StartArray:
        """Where the documents of one split begin, ascending, as a memory map."""
        if not self.manifest.splits[split].documents:
            return np.empty(0, np.int64)
        return np.memmap(self.folder / starts_name(split), "<i8", mode="r")

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        return tokenizer_from_folder(self.folder / TOKENIZER)

    @property
    def tokenizer_files(self) -> dict[str, FileRecord]:
        """What two folders have in common if one tokenizer made them."""
        files = self.manifest.files
        return {name: files[name] for name in files if name.startswith(f"{TOKENIZER}/")}

    def real_share(self, seq_len: int) -> tuple[float, float]:
        """Share of a training row's positions that predict a token of the text.

        Packed as `TokenWindows` does it, where only the last row has padding; and, to compare with,
        each document cut into rows of its own.
        """
        size = self.manifest.splits["train"].tokens
        alone = 0
        starts = self.starts("train")
        for first in range(0, starts.size, CHUNK):
            ends = starts[first : first + CHUNK + 1]
            lengths = np.diff(ends, append=[size] if first + CHUNK >= starts.size else [])
            alone += int((-(-(lengths - 1) // seq_len)).sum())
        packed = -(-max(size - 1, 0) // seq_len)
        if not packed or not alone:
            return 0.0, 0.0
        predicted = size - starts.size
        return (size - 1) / (packed * seq_len), predicted / (alone * seq_len)

    def check(self) -> None:
        """Compare every file with its checksum, which reads the folder once.

        Raises:
            DamagedError: On the first file that is not as it was written.
        """
        for name, record in self.manifest.files.items():
            if digest(self.folder / name) != record.sha256:
                raise DamagedError(
                    f"{self.folder / name} is not what was written (its SHA-256 differs); use "
                    "another copy of the folder, or prepare it again"
                )


def is_prepared(folder: str | Path) -> bool:
    """Whether a path is a folder with a manifest of prepared text in it."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return False
    plain = read_json(path)
    return isinstance(plain, dict) and str(plain.get("format")).startswith("open_mythos tokens")


def open_prepared(folder: str | Path) -> Prepared:
    """A prepared folder, once every file is known to be there with the size that was written.

    Raises:
        InputError: If it is no such folder, or not yet a finished one.
        DamagedError: If a file is missing or has another size.
    """
    root = Path(folder)
    if not is_prepared(root):
        raise InputError(
            f"{str(root)!r} holds no prepared text (no {MANIFEST} of its kind); make it with "
            "`open-mythos data prepare`, or run that again if it was stopped"
        )
    plain = read_json(root / MANIFEST)
    if plain["format"] != FORMAT:
        raise InputError(
            f"{root / MANIFEST} is of the format {plain['format']!r}, not {FORMAT!r}; prepare the "
            "text again with this version"
        )
    try:
        manifest = from_plain(Manifest, plain)
    except ConfigError as error:
        raise DamagedError(f"{root / MANIFEST} is damaged: {error}") from None
    for name, record in manifest.files.items():
        path = root / name
        size = path.stat().st_size if path.is_file() else None
        if size != record.bytes:
            found = "does not exist" if size is None else f"has {size} bytes"
            raise DamagedError(
                f"{path} {found}, {record.bytes} bytes were written; use another copy of the "
                "folder, or prepare it again"
            )
    return Prepared(root, manifest)


def shard_name(split: str, index: int) -> str:
    """File of a split's tokens."""
    return f"{split}-{index:05d}.bin"


def starts_name(split: str) -> str:
    """File of where a split's documents begin: int64, little endian."""
    return f"{split}.starts"
