"""`open-mythos tokenizer`: learn a byte-level BPE from text, and see what a tokenizer does."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from open_mythos.data.bpe_tokenizer import BPETokenizer
from open_mythos.data.byte_tokenizer import utf8
from open_mythos.data.documents import find_sources, read_source
from open_mythos.data.readers import BadRecords, Reading
from open_mythos.data.tokenizer import MythosTokenizer, padded_vocab, save_tokenizer
from open_mythos.errors import InputError


SHOWN_SPECIALS = 16


def run_train(
    *, sources: Sequence[str], out: Path, vocab_size: int, field: str, limit_mb: float
) -> None:
    """Learn merges from the text of files, save the tokenizer, and say how well it packs bytes.

    Raises:
        InputError: When there is no text, or vocab_size cannot hold the bytes and special tokens.
    """
    console = Console(stderr=True)
    counter = Counter(limit_mb * 1e6)
    started = time.monotonic()
    found = BPETokenizer.train(
        counter.counted(texts(sources, field)),
        vocab_size,
        roles=True,
        progress=console.is_terminal,
    )
    if not counter.n_bytes:
        raise InputError(f"{', '.join(sources)}: no text; nothing can be learnt")
    if out.suffix == ".json":
        out.parent.mkdir(parents=True, exist_ok=True)
        found.save(out)
    else:
        save_tokenizer(found, out)
    tokens = sum(len(ids) for ids in found.encode_documents(counter.sample))
    n_bytes = sum(len(text.encode()) for text in counter.sample)
    lines = [
        f"{found.vocab_size} tokens from {counter.n_bytes / 1e6:.1f} MB of text in "
        f"{time.monotonic() - started:.1f} s, {n_bytes / max(tokens, 1):.2f} bytes per token on "
        f"its first {n_bytes / 1e6:.2f} MB",
        f"saved to {out}; a model for it has model.vocab_size={padded_vocab(found)}",
    ]
    if found.vocab_size < vocab_size:
        lines.insert(1, f"the text has merges for fewer tokens than the {vocab_size} asked for")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def run_show(*, name: str, text: str | None, as_json: bool) -> None:
    """Print what a tokenizer is, and how it takes a text apart.

    Raises:
        InputError: When the name leads nowhere.
    """
    found = described(MythosTokenizer(name), text)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    specials = found["special_tokens"]
    shown = " ".join(f"{token}={i}" for token, i in list(specials.items())[:SHOWN_SPECIALS])
    more = len(specials) - SHOWN_SPECIALS
    print(f"vocabulary      {found['vocab_size']} tokens, special ones included")
    print(f"padded          {found['padded_64']} (64), {found['padded_128']} (128)")
    print(f"end of text     {found['eos_id']}")
    print(f"special tokens  {shown or 'none'}{f' and {more} more' if more > 0 else ''}")
    print(f"chat template   {'yes' if found['chat_template'] else 'no'}")
    if found["note"]:
        print(f"note            {found['note']}")
    if text is not None:
        print(f"ids             {' '.join(map(str, found['ids']))}")
        print(f"pieces          {' '.join(map(repr, found['pieces']))}")
        print(f"bytes per token {found['bytes_per_token']:.3f}")


def described(tokenizer: MythosTokenizer, text: str | None) -> dict[str, Any]:
    """What `show` prints, as plain data."""
    found: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "padded_64": padded_vocab(tokenizer, 64),
        "padded_128": padded_vocab(tokenizer, 128),
        "eos_id": tokenizer.eos_id,
        "special_tokens": tokenizer.special_tokens,
        "chat_template": tokenizer.chat_template,
        "note": tokenizer.note,
    }
    if text is not None:
        ids = tokenizer.encode(text)
        found["ids"] = ids
        found["pieces"] = [tokenizer.decode([i]) for i in ids]
        found["bytes_per_token"] = len(text.encode()) / max(len(ids), 1)
    return found


class Counter:
    """Texts on their way to the trainer: counted, ended at a limit, the first ones kept.

    Attributes:
        limit: Bytes after which no more is handed on; 0 is none.
        n_bytes: Bytes handed on.
        sample: The first texts, up to about a megabyte.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.n_bytes = limit, 0
        self.sample: list[str] = []

    def counted(self, every: Iterable[str]) -> Iterator[str]:
        """The same texts, one after the other."""
        for text in every:
            if self.n_bytes < 1 << 20:
                self.sample.append(text)
            self.n_bytes += len(text.encode())
            yield text
            if self.limit and self.n_bytes >= self.limit:
                return


def texts(sources: Sequence[str], field: str) -> Iterator[str]:
    """The text of files, folders and hub ids, one document or part of a long one at a time.

    Raises:
        InputError: When there is no such source, or one cannot be read or holds no UTF-8.
    """
    reading = Reading(BadRecords(), field)
    for source in find_sources(sources):
        for piece in read_source(source, reading):
            try:
                utf8(piece.text)
            except InputError as error:
                raise InputError(f"document {piece.record} of {source.name!r}: {error}") from error
            yield piece.text
