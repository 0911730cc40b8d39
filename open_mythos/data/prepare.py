"""Prepare: documents to a folder of tokens, split by document, resumable, the same every time."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from open_mythos.checkpoint.files import (
    MANIFEST,
    atomic_folder,
    digest,
    remove_temporaries,
    write_json,
)
from open_mythos.config.overrides import to_plain
from open_mythos.data.documents import Source, find_sources
from open_mythos.data.encoding import encode_jobs, token_dtype
from open_mythos.data.jobs import Sorter, Sorting
from open_mythos.data.journal import JOURNAL, Journal, open_journal
from open_mythos.data.prepared import (
    SPLITS,
    TOKENIZER,
    FileRecord,
    Manifest,
    Prepared,
    is_prepared,
    open_prepared,
)
from open_mythos.data.readers import PIECE
from open_mythos.data.split_writer import SplitWriter
from open_mythos.data.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from open_mythos.errors import InputError


# Tokens between two entries of the journal: seconds of work, against tens of milliseconds that it
# takes to force them to disk.
JOURNAL_TOKENS = 1 << 24
MOST_SHARD_TOKENS = 1 << 34
# Packages whose versions may change which tokens a text becomes.
DECIDING = ("open-mythos", "tokenizers", "tiktoken", "transformers")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to prepare.

    Attributes:
        sources: Files, folders and Hugging Face ids, read in this order.
        out: Folder for the result.
        tokenizer: Name, path or Hugging Face id.
        text_field: Field of a record that is its text.
        validation_share: Chance of a document to be held out, in [0, 1).
        shard_tokens: Tokens of a file.
        workers: Processes that encode.
        skip_bad: Leave records without text out, and count them.
    """

    sources: tuple[str, ...]
    out: Path
    tokenizer: str = "plays"
    text_field: str = "text"
    validation_share: float = 0.01
    shard_tokens: int = 100_000_000
    workers: int = 1
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.validation_share < 1.0:
            raise InputError(f"validation_share is {self.validation_share}; it must be in [0, 1)")
        if not 1 <= self.shard_tokens <= MOST_SHARD_TOKENS:
            raise InputError(
                f"shard_tokens is {self.shard_tokens}; it must be in 1 to {MOST_SHARD_TOKENS}"
            )
        if self.workers < 1:
            raise InputError(f"workers is {self.workers}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a preparation has come, earlier calls included.

    Attributes:
        read: Bytes of the source files behind it, as they lie on disk.
        total: Their size; None where it is not known.
        text_bytes: Bytes of text encoded.
        tokens: Tokens written.
        documents: Documents written.
        skipped: Bad records left out.
    """

    read: int
    total: int | None
    text_bytes: int
    tokens: int
    documents: int
    skipped: int


Report = Callable[[Progress], None]


def prepare(request: Request, report: Report | None = None) -> Prepared:
    """Read, encode and write; what an earlier call with the same request left is gone on with.

    The files depend on the sources, the tokenizer, the share and the shard length alone: not on
    the number of workers, nor on how often it was stopped. A finished folder is returned as it is.

    Args:
        request: What to prepare.
        report: Called after each megabyte or so.

    Raises:
        InputError: On sources that cannot be read, a tokenizer without an end-of-text token, or a
            folder that holds something else.
        MissingExtraError: Without a package that a source needs.
    """
    sources = find_sources(request.sources)
    tokenizer = load_tokenizer(request.tokenizer)
    if tokenizer.eos_id is None:
        raise InputError(
            f"tokenizer {request.tokenizer!r} has no end-of-text token, without which documents "
            "would run into each other; name one that has, such as 'plays' or 'byte'"
        )
    folder = request.out
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporaries(folder)
    wanted = checksum(request, sources, tokenizer)
    if is_prepared(folder):
        return finished(folder, wanted)
    journal = open_journal(folder, wanted)
    if not journal.tokens:
        with atomic_folder(folder / TOKENIZER) as fresh:
            save_tokenizer(tokenizer, fresh)
    dtype = token_dtype(tokenizer.vocab_size)
    journal = write(request, sources, journal, dtype, report)
    if not journal.tokens:
        raise InputError(f"there is no visible character in {', '.join(request.sources)}")
    manifest = Manifest(
        request=wanted,
        sources=request.sources,
        source_files=sum(source.reader is not None for source in sources),
        source_bytes=sum(source.bytes or 0 for source in sources),
        text_field=request.text_field,
        tokenizer=request.tokenizer,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        dtype="uint16" if dtype.itemsize == 2 else "uint32",
        shard_tokens=request.shard_tokens,
        validation_share=request.validation_share,
        skipped=journal.skipped,
        blank=journal.blank,
        splits=journal.splits,
        files=dict(sorted({**journal.files, **tokenizer_files(folder)}.items())),
        versions=dict(versions(DECIDING)),
    )
    write_json(folder / MANIFEST, to_plain(manifest))
    return finished(folder, wanted)


def write(
    request: Request,
    sources: Sequence[Source],
    journal: Journal,
    dtype: np.dtype[Any],
    report: Report | None,
) -> Journal:
    """Encode and write everything behind the journal's place; returns the journal of the end."""
    folder, size = request.out, request.shard_tokens
    known = all(source.bytes is not None for source in sources)
    total = sum(source.bytes or 0 for source in sources) if known else None
    sorting = Sorting(request.text_field, request.validation_share, request.skip_bad)
    jobs = Sorter(sorting, journal).jobs(sources)
    with ExitStack() as stack:
        writers = [
            stack.enter_context(SplitWriter(folder, name, dtype, size, journal.splits[name]))
            for name in SPLITS
        ]
        answered = stack.enter_context(
            closing(encode_jobs(jobs, folder / TOKENIZER, request.workers))
        )
        for job, answers in answered:
            for writer, pile, encoded in zip(writers, job.piles, answers, strict=True):
                writer.append(encoded, pile.text_bytes)
            now = noted(job.reached, journal, writers)
            if len(now.files) > len(journal.files) or now.tokens - journal.tokens > JOURNAL_TOKENS:
                for writer in writers:
                    writer.sync()
                now.save(folder)
                journal = now
            if report is not None:
                report(progress(now, job.read, total))
        for writer in writers:
            writer.finish()
        return noted(now, journal, writers)


def noted(reached: Journal, journal: Journal, writers: Sequence[SplitWriter]) -> Journal:
    """The journal at a place, with what the writers have done by then."""
    files = dict(journal.files)
    for writer in writers:
        files.update(writer.finished)
    return replace(reached, splits={writer.name: writer.done for writer in writers}, files=files)


def progress(now: Journal, read: int, total: int | None) -> Progress:
    """What a person wants to know of the journal."""
    splits = now.splits.values()
    return Progress(
        read=read,
        total=total,
        text_bytes=sum(split.text_bytes for split in splits),
        tokens=now.tokens,
        documents=sum(split.documents for split in splits),
        skipped=now.skipped,
    )


def finished(folder: Path, wanted: str) -> Prepared:
    """A folder with a manifest, if it is what is asked for.

    Raises:
        InputError: If it was made from something else.
    """
    found = open_prepared(folder)
    if found.manifest.request != wanted:
        raise InputError(
            f"{str(folder)!r} holds text prepared with other settings, another tokenizer or other "
            "source files; give another folder, or delete it"
        )
    (folder / JOURNAL).unlink(missing_ok=True)
    return found


# -- what decides the result ----------------------------------------------------------------------


def checksum(request: Request, sources: Sequence[Source], tokenizer: Tokenizer) -> str:
    """SHA-256 of all that the tokens depend on, as far as that can be told without reading it.

    Whether bad records are skipped is not among it: who meets one may go on by skipping it.
    """
    with tempfile.TemporaryDirectory() as name:
        save_tokenizer(tokenizer, name)
        saved = {path.name: digest(path) for path in sorted(Path(name).iterdir())}
    deciding = {
        "sources": [(source.name, source.bytes, source.changed) for source in sources],
        "tokenizer": saved,
        "text_field": request.text_field,
        "validation_share": request.validation_share,
        "shard_tokens": request.shard_tokens,
        "piece": PIECE,
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def tokenizer_files(folder: Path) -> dict[str, FileRecord]:
    """The saved tokenizer's files as the manifest lists them."""
    return {
        path.relative_to(folder).as_posix(): FileRecord(
            bytes=path.stat().st_size, sha256=digest(path)
        )
        for path in (folder / TOKENIZER).rglob("*")
        if path.is_file()
    }


def versions(packages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Versions of those packages that are installed."""
    for package in packages:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
