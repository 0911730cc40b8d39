"""TiktokenTokenizer: o200k_harmony, the 201,088 tokens of gpt-oss, by tiktoken's fast encoder."""

import importlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from open_mythos.data.byte_tokenizer import known_ids, utf8
from open_mythos.data.o200k import NAME, RANKS_SHA256, o200k_encoding
from open_mythos.data.special_tokens import END_OF_TEXT, encode_marked
from open_mythos.errors import InputError


KIND = "tiktoken-encoding"
# The harmony tokens in a plain order, every turn ended alike, so that what is said later changes
# nothing that was said before. This is not the template that gpt-oss was trained with.
HARMONY_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'developer', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('unknown role ' ~ message['role'] ~ "
    "'; known: system, developer, user, assistant, tool') }}"
    "{% endif %}"
    "{{ '<|start|>' + message['role'] }}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|channel|>final<|message|>' }}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '<|message|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|channel|>final<|message|>' }}{% endif %}"
)
TokenArray = npt.NDArray[np.uint32]


class TiktokenTokenizer:
    """The tokenizer of gpt-oss, whose ids are those of tiktoken's own `o200k_harmony`.

    They were never compared with the tokenizer.json of the Hugging Face hub. The spelling of a
    special token inside a text is ordinary text.

    Attributes:
        encoding: tiktoken's Encoding.
        special_tokens: Ids of the special tokens by their spelling.
        chat_template: Jinja text that lays out a chat.
    """

    # Ids of a text are the ids of its parts, cut at any special token.
    splits_bytes = True

    def __init__(self, chat_template: str | None = HARMONY_TEMPLATE) -> None:
        """Load the encoding, see `o200k_encoding`."""
        self.encoding = o200k_encoding()
        self.chat_template = chat_template
        named = {
            name: int(self.encoding.encode_single_token(name))
            for name in self.encoding.special_tokens_set
        }
        self.special_tokens: dict[str, int] = dict(
            sorted(named.items(), key=lambda pair: (pair[1], pair[0]))
        )
        self._special_ids = frozenset(named.values())

    @property
    def vocab_size(self) -> int:
        """201,088: byte sequences and special tokens."""
        return int(self.encoding.n_vocab)

    @property
    def eos_id(self) -> int:
        """Id of the end of a text."""
        return self.special_tokens[END_OF_TEXT]

    @property
    def special_names(self) -> dict[str, str]:
        """What a chat template may call special tokens by."""
        return {"eos_token": END_OF_TEXT}

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str) -> list[int]:
        """Token ids of the text, nothing added at either end.

        Raises:
            InputError: When text is not a str, or holds a lone surrogate.
        """
        utf8(text)
        ids: list[int] = self._array(text).tolist()
        return ids

    def encode_marked(self, text: str) -> list[int]:
        """Ids of a text in which the spellings of special tokens count.

        Raises:
            InputError: As `encode`.
        """
        return encode_marked(text, self.special_tokens, self.encode)

    def encode_documents(self, texts: Sequence[str]) -> list[TokenArray]:
        """Ids of many texts, each as an array; one core's work.

        By `quicktok` where that is installed and says the same, else by tiktoken.

        Raises:
            InputError: When one is not a str, or holds a lone surrogate.
        """
        texts = list(texts)
        for text in texts:
            if not isinstance(text, str):
                utf8(text)  # quicktok would take bytes
        try:
            if self._twin is None:
                return [self._array(text) for text in texts]
            ids, ends = self._twin.encode_batch(texts, 1)
        except (TypeError, UnicodeEncodeError):
            for text in texts:
                utf8(text)
            raise
        return [ids[ends[i] : ends[i + 1]] for i in range(len(texts))]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these ids; special tokens are skipped, broken characters become U+FFFD.

        Raises:
            InputError: On an id outside the vocabulary.
        """
        plain = [i for i in known_ids(ids, self.vocab_size) if i not in self._special_ids]
        return str(self.encoding.decode(plain))

    def vocabulary(self) -> list[bytes]:
        """What each id stands for; nothing where the numbering has a hole."""
        table = [b""] * self.vocab_size
        for token in self.encoding.token_byte_values():
            table[self.encoding.encode_single_token(token)] = token
        for name, i in self.special_tokens.items():
            table[i] = name.encode()
        return table

    def save(self, path: str | Path) -> None:
        """Write a JSON file of a few lines that names the encoding and its hash."""
        mark: dict[str, Any] = {
            "open_mythos": KIND,
            "version": 1,
            "encoding": NAME,
            "sha256": RANKS_SHA256,
            "chat_template": self.chat_template,
        }
        Path(path).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_mark(cls, mark: dict[str, Any]) -> "TiktokenTokenizer":
        """The tokenizer that a file of `save` describes.

        Raises:
            InputError: When it names another encoding than the one that this library has.
            MissingExtraError: As `o200k_encoding`.
        """
        wanted = (mark.get("encoding"), mark.get("sha256"))
        if wanted != (NAME, RANKS_SHA256):
            raise InputError(
                f"the file asks for encoding {wanted[0]!r} with sha256 {wanted[1]}; "
                f"this version knows {NAME!r} with {RANKS_SHA256} alone"
            )
        return cls(mark.get("chat_template"))

    def _array(self, text: str) -> TokenArray:
        try:
            ids: TokenArray = self.encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError as error:
            # Its pattern gives up on about a million blanks in a row; halves are as lossless.
            if isinstance(error, UnicodeEncodeError) or len(text) < 2:
                raise
            middle = len(text) // 2
            return np.concatenate([self._array(text[:middle]), self._array(text[middle:])])
        return ids

    @cached_property
    def _twin(self) -> Any | None:
        """The encoding of quicktok, if it is installed and agrees on a text of all our tokens.

        One core: 48 to 87 MB/s where tiktoken does 15 to 23 (plays, prose, code).
        """
        try:
            twin = importlib.import_module("quicktok").get_encoding(NAME)
        except (ImportError, KeyError, RuntimeError):
            return None
        plain = [i for i in range(self.vocab_size) if i not in self._special_ids]
        probe = str(self.encoding.decode(plain))
        same = np.array_equal(twin.encode_batch([probe], 1)[0], self._array(probe))
        return twin if same and twin.n_vocab == self.vocab_size else None
