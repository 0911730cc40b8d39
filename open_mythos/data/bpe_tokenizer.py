"""BPETokenizer: a `tokenizers` JSON file behind the two calls that a language model needs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend, decoders, models, pre_tokenizers, trainers

from open_mythos.data.byte_tokenizer import BYTES, known_ids, utf8
from open_mythos.data.special_tokens import (
    END_OF_TEXT,
    ROLE_TEMPLATE,
    ROLE_TOKENS,
    encode_marked,
)
from open_mythos.errors import InputError


# What published tokenizer files call the end of a text when no config file beside them says so.
USUAL_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
CONFIG_NAME = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"
# Our own key, for tokenizers of chats: in `transformers` their special tokens have to count in
# texts, because it knows no other way to encode a conversation.
SPECIALS_IN_TEXT = "open_mythos_specials_in_text"


class BPETokenizer:
    """Sub-word tokens from a file: the bundled one, one trained here, or anyone's.

    Those trained here split bytes, so every text comes back exactly, and treat the spelling of a
    special token inside a text as ordinary text: no document can forge its own end.

    Attributes:
        backend: The object of the `tokenizers` library.
        special_tokens: Ids of the special tokens by their spelling.
        special_names: What a chat template may call them by ("eos_token" and so on).
        chat_template: Jinja text that lays out a chat, or None.
    """

    def __init__(
        self,
        backend: Backend,
        eos_token: str | None = None,
        specials_in_text: bool = False,
        chat_template: str | None = None,
        special_names: Mapping[str, str] | None = None,
    ) -> None:
        """Wrap a loaded tokenizer; `specials_in_text` makes encode obey special spellings."""
        backend.encode_special_tokens = not specials_in_text
        self.backend = backend
        added = backend.get_added_tokens_decoder().items()
        self.special_tokens = {token.content: i for i, token in added if token.special}
        self.chat_template = chat_template
        named = [eos_token] if eos_token is not None else USUAL_ENDS
        found = [i for i in map(backend.token_to_id, named) if i is not None]
        if eos_token is not None and not found:
            raise InputError(f"eos_token {eos_token!r} is not in the tokenizer's vocabulary")
        self._eos_id = found[0] if found else None
        self.special_names = dict(special_names or {})
        if self._eos_id is not None:
            self.special_names["eos_token"] = str(backend.id_to_token(self._eos_id))
        # Files with holes in their numbering exist: the highest id counts, not the number of ids.
        self._vocab_size = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @classmethod
    def plays(cls) -> "BPETokenizer":
        """The bundled tokenizer: 1024 tokens, trained on the training part of the plays."""
        text = files("open_mythos.data").joinpath("assets/plays-bpe.json").read_text("utf-8")
        return cls(Backend.from_str(text), END_OF_TEXT)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, roles: bool = False, progress: bool = False
    ) -> "BPETokenizer":
        """Learn byte-level merges from texts; a small text may end with fewer tokens than asked.

        The same texts give the same tokenizer, in whatever order they come.

        Args:
            texts: Read once, one after the other; only counts of their words stay in memory.
            vocab_size: Tokens to end with, bytes and special tokens included.
            roles: Whether the roles of a chat get tokens, and the tokenizer the chat template.
            progress: Whether a bar is drawn on stderr.

        Raises:
            InputError: When vocab_size cannot hold the 256 bytes and the special tokens.
        """
        specials = [END_OF_TEXT, *ROLE_TOKENS] if roles else [END_OF_TEXT]
        if vocab_size < BYTES + len(specials):
            what = (
                "the bytes, the end of a text and the roles"
                if roles
                else ("the bytes and the end of a text")
            )
            raise InputError(f"vocab_size is {vocab_size}; {what} need {BYTES + len(specials)}")
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=progress,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend, END_OF_TEXT, chat_template=ROLE_TEMPLATE if roles else None)

    @classmethod
    def from_file(cls, path: str | Path) -> "BPETokenizer":
        """Read a `tokenizers` JSON file, minding a tokenizer_config.json beside it.

        The config names the end-of-text token and whether special spellings in a text count
        (`split_special_tokens`; Hugging Face's default is that they do). Without one, they do not.
        The chat template is that of a chat_template.jinja beside it, else the config's.

        Raises:
            InputError: When the file is missing, or is no tokenizer.
        """
        path = Path(path)
        # The library raises bare Exception on a file that it cannot read or parse, so look first.
        text = read_json_text(path)
        try:
            backend = Backend.from_str(text)
        except Exception as error:
            raise InputError(f"{str(path)!r} is no tokenizers file: {error}") from error
        beside = path.with_name(CONFIG_NAME)
        if not beside.is_file():
            return cls(backend, chat_template=_template(path, {}))
        config: dict[str, Any] = json.loads(read_json_text(beside))
        return cls(
            backend,
            _content(config.get("eos_token")),
            config.get(SPECIALS_IN_TEXT, not config.get("split_special_tokens", False)),
            _template(path, config),
            _special_names(config),
        )

    @property
    def vocab_size(self) -> int:
        """One more than the highest id, special tokens included."""
        return self._vocab_size

    @property
    def eos_id(self) -> int | None:
        """Id of the end of a text, or None where the file has no such token."""
        return self._eos_id

    @property
    def splits_bytes(self) -> bool:
        """Whether ids of a text are those of its parts, cut at any special token, by our rule."""
        cutter = self.backend.pre_tokenizer
        return (
            self.backend.encode_special_tokens
            and self.backend.normalizer is None
            and isinstance(cutter, pre_tokenizers.ByteLevel)
            and not cutter.add_prefix_space
        )

    def __len__(self) -> int:
        return self._vocab_size

    def encode(self, text: str) -> list[int]:
        """Token ids of the text, nothing added at either end.

        Raises:
            InputError: When text is not a str, or holds a lone surrogate.
        """
        utf8(text)
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_documents(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        """Ids of many texts, each as an array; on all cores if TOKENIZERS_PARALLELISM allows.

        Raises:
            InputError: When one is not a str, or holds a lone surrogate.
        """
        for text in texts:
            if not isinstance(text, str):
                utf8(text)  # the library would take a pair for a sentence and its neighbour
        try:
            found = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            for text in texts:
                utf8(text)
            raise
        return [np.asarray(encoding.ids, dtype=np.uint32) for encoding in found]

    def encode_marked(self, text: str) -> list[int]:
        """Token ids of a text in which the spellings of special tokens count.

        Raises:
            InputError: When text is not a str, or holds a lone surrogate.
        """
        if not self.backend.encode_special_tokens:
            return self.encode(text)
        return encode_marked(text, self.special_tokens, self.encode)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these ids; special tokens are skipped.

        Raises:
            InputError: On an id outside the vocabulary.
        """
        plain = known_ids(ids, self._vocab_size)
        return str(self.backend.decode(plain, skip_special_tokens=True))

    def vocabulary(self) -> str:
        """The `tokenizers` JSON, which says what each id stands for."""
        return str(self.backend.to_str())

    def save(self, path: str | Path) -> None:
        """Write the `tokenizers` JSON file, and beside it the config that Hugging Face reads."""
        path = Path(path)
        path.write_text(self.backend.to_str(), encoding="utf-8")
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.special_names.get("eos_token"),
            **self.special_names,
            "split_special_tokens": self.backend.encode_special_tokens,
        }
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
            config["split_special_tokens"] = False
            config[SPECIALS_IN_TEXT] = not self.backend.encode_special_tokens
        path.with_name(CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        path.with_name(TEMPLATE_NAME).unlink(missing_ok=True)  # it would go before the config's


def read_json_text(path: Path) -> str:
    """The content of a JSON file whose top level is an object.

    Raises:
        InputError: When the file is missing, unreadable, or not such JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
        parsed = json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read a tokenizer from {str(path)!r}: {error}") from error
    if not isinstance(parsed, dict):
        raise InputError(f"{str(path)!r} is no tokenizer file: its top level is no JSON object")
    return text


def _content(token: Any) -> str | None:
    """The spelling of a token, which configs give as a str or as a description with one."""
    return token.get("content") if isinstance(token, dict) else token


def _special_names(config: Mapping[str, Any]) -> dict[str, str]:
    named = {name: _content(token) for name, token in config.items() if name.endswith("_token")}
    return {name: token for name, token in named.items() if isinstance(token, str)}


def _template(path: Path, config: Mapping[str, Any]) -> str | None:
    beside = path.with_name(TEMPLATE_NAME)
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    given = config.get("chat_template")
    if isinstance(given, list):  # several by name, as transformers 4 wrote them
        given = next((t["template"] for t in given if t.get("name") == "default"), None)
    return given if isinstance(given, str) else None
