"""What a tokenizer is, which one a name means, and how a run remembers its own."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from open_mythos.data.bpe_tokenizer import CONFIG_NAME, BPETokenizer, read_json_text
from open_mythos.data.byte_tokenizer import MARK, ByteTokenizer, utf8
from open_mythos.data.hub import OFFLINE_WAYS, folder_tokenizer, hub_tokenizer
from open_mythos.errors import InputError


__all__ = [
    "DEFAULT_MODEL_ID",
    "FILE_NAME",
    "BPETokenizer",
    "ByteTokenizer",
    "MythosTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "save_tokenizer",
    "tokenizer_from_folder",
]

DEFAULT_MODEL_ID = "openai/gpt-oss-20b"
FILE_NAME = "tokenizer.json"
# "name" or "owner/name"; whatever looks otherwise was meant as a path.
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back; all that corpora, generation and evaluation know of tokenizers."""

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding needs: every id is below it, special tokens included."""
        ...

    @property
    def eos_id(self) -> int | None:
        """Id that ends a text, or None."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of the text, with nothing added."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, special tokens skipped."""
        ...


class MythosTokenizer:
    """One class for every tokenizer: "byte", "plays", a local path, or any Hugging Face id.

    Attributes:
        model_id: The name that was asked for.
        tokenizer: What answers underneath: a ByteTokenizer, a BPETokenizer, or the object that
            `transformers` made (hub ids, and folders without a tokenizer.json).
    """

    def __init__(self, model_id: str | Path = DEFAULT_MODEL_ID) -> None:
        """Find the tokenizer: built-in names, then the disk, then the local cache, then the hub.

        Raises:
            InputError: When the name leads nowhere, with the ways that need no network.
            MissingExtraError: When the name needs `transformers` and it is not installed.
        """
        self.model_id = str(model_id)
        self.tokenizer: Any = _resolve(self.model_id)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included.

        The `vocab_size` of a `transformers` tokenizer leaves those out: for gpt-oss, 199,998 where
        ids run to 201,087, and a model of that size fails at the first special token.
        """
        return len(self.tokenizer)

    @property
    def eos_id(self) -> int | None:
        """Id that ends a text, or None."""
        inner = self.tokenizer
        if isinstance(inner, (ByteTokenizer, BPETokenizer)):
            return inner.eos_id
        found = inner.eos_token_id
        return None if found is None else int(found)

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str) -> list[int]:
        """Ids of the text, with no special token added.

        Raises:
            InputError: When text is not a str, or holds a lone surrogate.
        """
        if isinstance(self.tokenizer, (ByteTokenizer, BPETokenizer)):
            return self.tokenizer.encode(text)
        utf8(text)
        return [int(i) for i in self.tokenizer.encode(text, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, special tokens skipped.

        Raises:
            InputError: On an id outside the vocabulary (built-in and local tokenizers).
        """
        if isinstance(self.tokenizer, (ByteTokenizer, BPETokenizer)):
            return self.tokenizer.decode(ids)
        return str(self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))


def load_tokenizer(name: str | Path) -> Tokenizer:
    """The plainest tokenizer that answers to a name, path or Hugging Face id.

    A ByteTokenizer for "byte", a BPETokenizer for "plays" and for files, and a MythosTokenizer
    for what `transformers` has to read.

    Raises:
        InputError: When the name leads nowhere.
        MissingExtraError: When the name needs `transformers` and it is not installed.
    """
    found = MythosTokenizer(name)
    return found.tokenizer if isinstance(found.tokenizer, (ByteTokenizer, BPETokenizer)) else found


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Leave in a run's folder what `tokenizer_from_folder` needs to read the run's ids again.

    The folder gets a tokenizer.json that stands alone: reading it needs neither a network nor,
    for hub tokenizers of the fast kind, `transformers`.

    Raises:
        InputError: When the tokenizer is of a class that cannot be saved.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    inner: Any = tokenizer.tokenizer if isinstance(tokenizer, MythosTokenizer) else tokenizer
    # A config of an earlier tokenizer would name the wrong end of text.
    (folder / CONFIG_NAME).unlink(missing_ok=True)
    (folder / FILE_NAME).unlink(missing_ok=True)
    if isinstance(inner, (ByteTokenizer, BPETokenizer)):
        inner.save(folder / FILE_NAME)
    elif hasattr(inner, "save_pretrained"):
        inner.save_pretrained(str(folder))
    else:
        raise InputError(f"cannot save a {type(inner).__name__}; it has no save_pretrained")


def tokenizer_from_folder(folder: str | Path) -> Tokenizer:
    """The tokenizer that `save_tokenizer` (or Hugging Face's `save_pretrained`) left in a folder.

    Raises:
        InputError: When the folder holds none, or one that cannot be read.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{str(folder)!r} is no folder; a tokenizer was expected in it")
    return load_tokenizer(Path(folder).absolute())


def _resolve(name: str) -> Any:
    if name == "byte":
        return ByteTokenizer()
    if name == "plays":
        return BPETokenizer.plays()
    path = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if name and path.is_dir():
        return _from_folder(path)
    if name and path.is_file():
        return _from_file(path)
    if not HUB_ID.fullmatch(name) or path.suffix == ".json":
        raise InputError(f"there is no tokenizer at {name!r}; {OFFLINE_WAYS}")
    return hub_tokenizer(name)


def _from_folder(folder: Path) -> Any:
    if (folder / FILE_NAME).is_file():
        return _from_file(folder / FILE_NAME)
    if (folder / CONFIG_NAME).is_file():
        return folder_tokenizer(str(folder))
    raise InputError(f"{str(folder)!r} holds no {FILE_NAME} and no {CONFIG_NAME}; {OFFLINE_WAYS}")


def _from_file(path: Path) -> ByteTokenizer | BPETokenizer:
    content = json.loads(read_json_text(path))
    return ByteTokenizer() if content == MARK else BPETokenizer.from_file(path)
