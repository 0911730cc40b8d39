"""ByteTokenizer: text as its UTF-8 bytes; needs no file, no training and no network."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from open_mythos.data.special_tokens import (
    END_OF_TEXT,
    ROLE_TEMPLATE,
    ROLE_TOKENS,
    encode_marked,
)
from open_mythos.errors import InputError


BYTES = 256
MARK = {"open_mythos": "byte-tokenizer", "version": 1}
# Bytes from here on are in no UTF-8 text, so that roles of a chat need no room of their own.
FIRST_ROLE = 0xF8


class ByteTokenizer:
    """One token per byte, plus an end-of-text id that no text can produce.

    Vocabulary: ids 0 to 255 are the bytes, 256 is the end of a text. Four bytes that no text
    contains, 0xF8 to 0xFB, are the roles of a chat.

    Attributes:
        chat_template: Jinja text that lays out a chat (`data/chat_template.py`).
    """

    # Ids of a text are the ids of its parts, wherever it is cut.
    splits_bytes = True

    def __init__(self, chat_template: str | None = ROLE_TEMPLATE) -> None:
        self.chat_template = chat_template

    @property
    def vocab_size(self) -> int:
        """257: the bytes and the end of a text."""
        return BYTES + 1

    @property
    def eos_id(self) -> int:
        """Id of the end of a text."""
        return BYTES

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the end of a text and of the roles."""
        roles = {name: FIRST_ROLE + place for place, name in enumerate(ROLE_TOKENS)}
        return {END_OF_TEXT: BYTES, **roles}

    @property
    def special_names(self) -> dict[str, str]:
        """What a chat template may call special tokens by."""
        return {"eos_token": END_OF_TEXT}

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str) -> list[int]:
        """The UTF-8 bytes of the text.

        Raises:
            InputError: When text is not a str, or holds a lone surrogate, which has no bytes.
        """
        return list(utf8(text))

    def encode_marked(self, text: str) -> list[int]:
        """Ids of a text in which the spellings of special tokens count.

        Raises:
            InputError: As `encode`.
        """
        return encode_marked(text, self.special_tokens, self.encode)

    def encode_documents(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        """Ids of many texts, each as an array.

        Raises:
            InputError: When one is not a str, or holds a lone surrogate.
        """
        return [np.frombuffer(utf8(text), np.uint8).astype(np.uint32) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these bytes; end-of-text ids are skipped, broken characters become U+FFFD.

        Raises:
            InputError: On an id outside the vocabulary.
        """
        return bytes(i for i in known_ids(ids, self.vocab_size) if i < BYTES).decode(
            "utf-8", errors="replace"
        )

    def vocabulary(self) -> list[bytes]:
        """What each id stands for."""
        return [*(bytes([i]) for i in range(BYTES)), END_OF_TEXT.encode()]

    def save(self, path: str | Path) -> None:
        """Write a one-line JSON file that says which tokenizer this is."""
        mark: dict[str, Any] = dict(MARK)
        if self.chat_template != ROLE_TEMPLATE:
            mark["chat_template"] = self.chat_template
        Path(path).write_text(json.dumps(mark) + "\n", encoding="utf-8")

    @classmethod
    def from_mark(cls, mark: dict[str, Any]) -> "ByteTokenizer":
        """The tokenizer that a file of `save` describes."""
        return cls(mark.get("chat_template", ROLE_TEMPLATE))


def utf8(text: str) -> bytes:
    """The text's bytes, or one error that says what is wrong with it.

    Raises:
        InputError: When text is not a str or has no UTF-8 form.
    """
    if not isinstance(text, str):
        raise InputError(f"encode takes a str, not {type(text).__name__}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"character {error.start} of the text is the lone surrogate "
            f"U+{ord(text[error.start]):04X}, which no encoding can hold; "
            "text.encode('utf-8', 'replace').decode() removes it"
        ) from error


def known_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    """The ids as plain ints, from a list, an array or a flat tensor.

    Raises:
        InputError: On an id outside [0, vocab_size), naming it.
    """
    plain = [int(i) for i in ids]
    for i in plain:
        if not 0 <= i < vocab_size:
            raise InputError(f"token id {i} lies outside the vocabulary (0 to {vocab_size - 1})")
    return plain
