"""Conversations from files: one JSON object a line, and the split that holds some of them out."""

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_mythos.data.chat_template import Message
from open_mythos.errors import InputError


SUFFIXES = (".jsonl", ".jsonl.gz")
SHAPES = (
    '{"messages": [{"role": "user", "content": "..."}, ...]} or '
    '{"prompt": "...", "response": "..."}'
)


@dataclass(frozen=True)
class Conversation:
    """Messages, and where they stand, for who has to mend them.

    Attributes:
        messages: In order.
        where: File and line.
    """

    messages: tuple[Message, ...]
    where: str


def read_conversations(source: str | Path) -> Iterator[Conversation]:
    """The conversations of a .jsonl or .jsonl.gz file, or of all such files below a folder.

    A line holds messages, or a prompt and a response; blank lines count for nothing.

    Raises:
        InputError: When there is no such file, or a line is no conversation, naming both.
    """
    for path in _files(Path(source)):
        try:
            yield from _read(path)
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {str(path)!r}: {error}") from error


def split_conversations(
    conversations: Iterable[Conversation], validation_share: float = 0.1
) -> tuple[list[Conversation], list[Conversation]]:
    """Two lists, (train, validation), in order; equal conversations stay together.

    What a conversation says decides where it goes, by a hash: adding others moves none of them.
    Neither list is empty, for which at most one (with its equals) is moved.

    Raises:
        InputError: When the share is not inside (0, 1), or there are not two that differ.
    """
    if not 0.0 < validation_share < 1.0:
        raise InputError(f"validation_share is {validation_share}; it must lie inside (0, 1)")
    every = list(conversations)
    places = [_place(conversation) for conversation in every]
    distinct = sorted(set(places))
    if len(distinct) < 2:
        raise InputError(
            f"{len(distinct)} different conversations; training and validation need one each"
        )
    # Held out is what lies below a bound that has at least the first below and the last above it.
    bound = min(max(validation_share, distinct[1]), distinct[-1])
    train = [c for c, place in zip(every, places, strict=True) if place >= bound]
    return train, [c for c, place in zip(every, places, strict=True) if place < bound]


def _place(conversation: Conversation) -> float:
    """A number in [0, 1) that the messages alone decide; equal for two in 2**53 others."""
    said = json.dumps([dict(m) for m in conversation.messages], sort_keys=True)
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:6], "big") / 2**48


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    found = sorted(p for p in source.rglob("*") if p.name.endswith(SUFFIXES) and p.is_file())
    if not found:
        raise InputError(
            f"no conversations at {str(source)!r}; give a .jsonl or .jsonl.gz file, or a folder of "
            f"them, with a line such as {SHAPES} for each conversation"
        )
    return found


def _read(path: Path) -> Iterator[Conversation]:
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            where = f"{path.name}:{number}"
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise InputError(f"{where} is no JSON: {error}") from error
            yield Conversation(_messages(record, where), where)


def _messages(record: Any, where: str) -> tuple[Message, ...]:
    if isinstance(record, Mapping):
        found = record.get("messages")
        if isinstance(found, list) and found and all(_is_message(m) for m in found):
            return tuple(found)
        prompt, response = record.get("prompt"), record.get("response")
        if isinstance(prompt, str) and isinstance(response, str):
            asked: Message = {"role": "user", "content": prompt}
            return asked, {"role": "assistant", "content": response}
    raise InputError(f"{where} is no conversation; a line is {SHAPES}")


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role"), str) and "content" in value
