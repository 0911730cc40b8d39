"""ByteTokenizer: text as its UTF-8 bytes; needs no file, no training and no network."""

import json
from collections.abc import Iterable
from pathlib import Path

from open_mythos.errors import InputError


BYTES = 256
MARK = {"open_mythos": "byte-tokenizer", "version": 1}


class ByteTokenizer:
    """One token per byte, plus an end-of-text id that no text can produce.

    Vocabulary: ids 0 to 255 are the bytes, 256 is the end of a text.
    """

    @property
    def vocab_size(self) -> int:
        """257: the bytes and the end of a text."""
        return BYTES + 1

    @property
    def eos_id(self) -> int:
        """Id of the end of a text."""
        return BYTES

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str) -> list[int]:
        """The UTF-8 bytes of the text.

        Raises:
            InputError: When text is not a str, or holds a lone surrogate, which has no bytes.
        """
        return list(utf8(text))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these bytes; end-of-text ids are skipped, broken characters become U+FFFD.

        Raises:
            InputError: On an id outside the vocabulary.
        """
        return bytes(i for i in known_ids(ids, self.vocab_size) if i < BYTES).decode(
            "utf-8", errors="replace"
        )

    def save(self, path: str | Path) -> None:
        """Write a one-line JSON file that says which tokenizer this is."""
        Path(path).write_text(json.dumps(MARK) + "\n", encoding="utf-8")


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
