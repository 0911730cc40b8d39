"""What a tokenizer is, which one a name means, and how a run remembers its own."""

import json
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from open_mythos.data import o200k
from open_mythos.data.bpe_tokenizer import (
    CONFIG_NAME,
    TEMPLATE_NAME,
    BPETokenizer,
    read_json_text,
)
from open_mythos.data.byte_tokenizer import MARK, ByteTokenizer
from open_mythos.data.hub import (
    OFFLINE_WAYS,
    cached_tokenizer,
    folder_tokenizer,
    hub_tokenizer,
)
from open_mythos.data.hub_tokenizer import HubTokenizer
from open_mythos.data.tiktoken_tokenizer import KIND, TiktokenTokenizer
from open_mythos.errors import ConfigError, InputError, MissingExtraError


__all__ = [
    "DEFAULT_MODEL_ID",
    "FILE_NAME",
    "BPETokenizer",
    "ByteTokenizer",
    "MythosTokenizer",
    "TiktokenTokenizer",
    "Tokenizer",
    "decode_known",
    "load_tokenizer",
    "padded_vocab",
    "require_room",
    "save_tokenizer",
    "tokenizer_from_folder",
]

DEFAULT_MODEL_ID = "openai/gpt-oss-20b"
FILE_NAME = "tokenizer.json"
# "name" or "owner/name"; whatever looks otherwise was meant as a path.
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
Own = ByteTokenizer | BPETokenizer | TiktokenTokenizer
STAND_IN = (
    f"{DEFAULT_MODEL_ID} is not in the local Hugging Face cache, so {o200k.NAME} stands for it: "
    "its ids equal tiktoken's, and were not compared with the hub's file; its chat template is ours"
)


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
        tokenizer: What answers underneath: one of this library's tokenizers, or the object that
            `transformers` made (hub ids, and folders without a tokenizer.json).
        note: What a user should know of it, or "".
    """

    def __init__(self, model_id: str | Path = DEFAULT_MODEL_ID) -> None:
        """Find the tokenizer: built-in names, then the disk, then the local cache, then the hub.

        The default id falls back to o200k_harmony, where that is installed, before the hub.

        Raises:
            InputError: When the name leads nowhere, with the ways that need no network.
            MissingExtraError: When the name needs a package that is not installed.
        """
        self.model_id = str(model_id)
        self.tokenizer: Any = _resolve(self.model_id)
        plain = self.model_id != DEFAULT_MODEL_ID or not isinstance(self.tokenizer, Own)
        self.note = "" if plain or Path(self.model_id).exists() else STAND_IN

    @property
    def answering(self) -> Own | HubTokenizer:
        """What answers underneath, in one form whoever made it."""
        inner = self.tokenizer
        return inner if isinstance(inner, Own) else HubTokenizer(inner)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included.

        The `vocab_size` of a `transformers` tokenizer leaves those out: for gpt-oss, 199,998 where
        ids run to 201,087, and a model of that size fails at the first special token.
        """
        return self.answering.vocab_size

    @property
    def eos_id(self) -> int | None:
        """Id that ends a text, or None."""
        return self.answering.eos_id

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the special tokens by their spelling."""
        return self.answering.special_tokens

    @property
    def special_names(self) -> dict[str, str]:
        """What a chat template may call special tokens by."""
        return self.answering.special_names

    @property
    def chat_template(self) -> str | None:
        """Jinja text that lays out a chat, or None."""
        return self.answering.chat_template

    @chat_template.setter
    def chat_template(self, source: str | None) -> None:
        self.answering.chat_template = source

    @property
    def splits_bytes(self) -> bool:
        """Whether ids of a text are those of its parts, cut at any special token."""
        return self.answering.splits_bytes

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str) -> list[int]:
        """Ids of the text, with no special token added.

        Raises:
            InputError: When text is not a str, or holds a lone surrogate.
        """
        return self.answering.encode(text)

    def encode_marked(self, text: str) -> list[int]:
        """Ids of a text in which the spellings of special tokens count.

        Raises:
            InputError: As `encode`.
        """
        return self.answering.encode_marked(text)

    def encode_documents(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        """Ids of many texts, each as an array, by the fastest way the tokenizer has.

        Raises:
            InputError: As `encode`.
        """
        return self.answering.encode_documents(texts)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, special tokens skipped.

        Raises:
            InputError: On an id outside the vocabulary (this library's own tokenizers).
        """
        return self.answering.decode(ids)

    def vocabulary(self) -> str | list[bytes]:
        """What each id stands for: the JSON text of a `tokenizers` file, or the bytes of each.

        Raises:
            InputError: When the tokenizer underneath does not tell.
        """
        return self.answering.vocabulary()


def load_tokenizer(name: str | Path) -> Tokenizer:
    """The plainest tokenizer that answers to a name, path or Hugging Face id.

    A ByteTokenizer for "byte", a BPETokenizer for "plays" and for files, a TiktokenTokenizer for
    "o200k_harmony", and a MythosTokenizer for what `transformers` has to read.

    Raises:
        InputError: When the name leads nowhere.
        MissingExtraError: When the name needs a package that is not installed.
    """
    found = MythosTokenizer(name)
    return found.tokenizer if isinstance(found.tokenizer, Own) else found


def padded_vocab(tokenizer: Tokenizer | int, multiple: int = 64) -> int:
    """A `model.vocab_size` with room for every id, rounded up to what matmuls like.

    The rows above the tokenizer's last id are never read and never the target.

    Args:
        tokenizer: Or its number of tokens.
        multiple: 64 suits one GPU; 128 leaves every of two tensor-parallel ranks 64 again.

    Raises:
        InputError: When a number is below 1.
    """
    size = tokenizer if isinstance(tokenizer, int) else tokenizer.vocab_size
    if size < 1 or multiple < 1:
        raise InputError(f"{size} tokens and multiples of {multiple}: both must be at least 1")
    return -(-size // multiple) * multiple


def require_room(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuse a model whose embedding lacks rows for some of the tokenizer's ids.

    Raises:
        ConfigError: With the size that would do.
    """
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, special ones included, but "
            f"model.vocab_size is {vocab_size}; set model.vocab_size={padded_vocab(tokenizer)}"
        )


def decode_known(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """Text of what a model wrote; ids that only pad its vocabulary stand for nothing."""
    return tokenizer.decode([i for i in map(int, ids) if i < tokenizer.vocab_size])


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Leave in a run's folder what `tokenizer_from_folder` needs to read the run's ids again.

    The folder gets a tokenizer.json that stands alone: reading it needs neither a network nor,
    for hub tokenizers of the fast kind, `transformers`. The chat template goes with it. For
    o200k_harmony it names the encoding and its hash, and reading it needs the extra [tok].

    Raises:
        InputError: When the tokenizer is of a class that cannot be saved.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    inner: Any = tokenizer.tokenizer if isinstance(tokenizer, MythosTokenizer) else tokenizer
    # A file of an earlier tokenizer would name the wrong end of text, or the wrong template.
    for name in (CONFIG_NAME, FILE_NAME, TEMPLATE_NAME):
        (folder / name).unlink(missing_ok=True)
    if isinstance(inner, Own):
        inner.save(folder / FILE_NAME)
    else:
        HubTokenizer(inner).save_folder(str(folder))


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
    if name == o200k.NAME:
        return TiktokenTokenizer()
    path = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if name and path.is_dir():
        return _from_folder(path)
    if name and path.is_file():
        return _from_file(path)
    if not HUB_ID.fullmatch(name) or path.suffix == ".json":
        raise InputError(f"there is no tokenizer at {name!r}; {OFFLINE_WAYS}")
    if name != DEFAULT_MODEL_ID:
        return hub_tokenizer(name)
    return cached_tokenizer(name) or _stand_in() or hub_tokenizer(name)


def _stand_in() -> TiktokenTokenizer | None:
    try:
        found = TiktokenTokenizer()
    except MissingExtraError:
        return None
    logging.getLogger(__name__).warning(STAND_IN)
    return found


def _from_folder(folder: Path) -> Any:
    if (folder / FILE_NAME).is_file():
        return _from_file(folder / FILE_NAME)
    if (folder / CONFIG_NAME).is_file():
        return folder_tokenizer(str(folder))
    raise InputError(f"{str(folder)!r} holds no {FILE_NAME} and no {CONFIG_NAME}; {OFFLINE_WAYS}")


def _from_file(path: Path) -> Own:
    content = json.loads(read_json_text(path))
    kind = content.get("open_mythos")
    if kind == MARK["open_mythos"]:
        return ByteTokenizer.from_mark(content)
    return TiktokenTokenizer.from_mark(content) if kind == KIND else BPETokenizer.from_file(path)
