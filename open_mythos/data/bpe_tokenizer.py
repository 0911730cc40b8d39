"""BPETokenizer: a `tokenizers` JSON file behind the two calls that a language model needs."""

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend, decoders, models, pre_tokenizers, trainers

from open_mythos.data.byte_tokenizer import BYTES, known_ids, utf8
from open_mythos.errors import InputError


END_OF_TEXT = "<|endoftext|>"
# What published tokenizer files call the end of a text when no config file beside them says so.
USUAL_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
CONFIG_NAME = "tokenizer_config.json"


class BPETokenizer:
    """Sub-word tokens from a file: the bundled one, one trained here, or anyone's.

    Those trained here split bytes, so every text comes back exactly, and treat the spelling of a
    special token inside a text as ordinary text: no document can forge its own end.
    """

    def __init__(
        self, backend: Backend, eos_token: str | None = None, specials_in_text: bool = False
    ) -> None:
        """Wrap a loaded tokenizer; `specials_in_text` makes encode obey special spellings."""
        backend.encode_special_tokens = not specials_in_text
        self.backend = backend
        named = [eos_token] if eos_token is not None else USUAL_ENDS
        found = [i for i in map(backend.token_to_id, named) if i is not None]
        if eos_token is not None and not found:
            raise InputError(f"eos_token {eos_token!r} is not in the tokenizer's vocabulary")
        self._eos_id = found[0] if found else None
        # Files with holes in their numbering exist: the highest id counts, not the number of ids.
        self._vocab_size = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @classmethod
    def plays(cls) -> "BPETokenizer":
        """The bundled tokenizer: 1024 tokens, trained on the training part of the plays."""
        text = files("open_mythos.data").joinpath("assets/plays-bpe.json").read_text("utf-8")
        return cls(Backend.from_str(text), END_OF_TEXT)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Learn byte-level merges from texts; a small text may end with fewer tokens than asked.

        Raises:
            InputError: When vocab_size cannot hold the 256 bytes and the end of a text.
        """
        if vocab_size < BYTES + 1:
            raise InputError(
                f"vocab_size is {vocab_size}; the bytes and the end of a text need {BYTES + 1}"
            )
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend, END_OF_TEXT)

    @classmethod
    def from_file(cls, path: str | Path) -> "BPETokenizer":
        """Read a `tokenizers` JSON file, minding a tokenizer_config.json beside it.

        The config names the end-of-text token and whether special spellings in a text count
        (`split_special_tokens`; Hugging Face's default is that they do). Without one, they do not.

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
            return cls(backend)
        config: dict[str, Any] = json.loads(read_json_text(beside))
        eos = config.get("eos_token")
        eos_token = eos.get("content") if isinstance(eos, dict) else eos
        return cls(backend, eos_token, not config.get("split_special_tokens", False))

    @property
    def vocab_size(self) -> int:
        """One more than the highest id, special tokens included."""
        return self._vocab_size

    @property
    def eos_id(self) -> int | None:
        """Id of the end of a text, or None where the file has no such token."""
        return self._eos_id

    def __len__(self) -> int:
        return self._vocab_size

    def encode(self, text: str) -> list[int]:
        """Token ids of the text, nothing added at either end.

        Raises:
            InputError: When text is not a str, or holds a lone surrogate.
        """
        utf8(text)
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these ids; special tokens are skipped.

        Raises:
            InputError: On an id outside the vocabulary.
        """
        plain = known_ids(ids, self._vocab_size)
        return str(self.backend.decode(plain, skip_special_tokens=True))

    def save(self, path: str | Path) -> None:
        """Write the `tokenizers` JSON file, and beside it the config that Hugging Face reads."""
        path = Path(path)
        path.write_text(self.backend.to_str(), encoding="utf-8")
        eos = None if self._eos_id is None else self.backend.id_to_token(self._eos_id)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": eos,
            "split_special_tokens": self.backend.encode_special_tokens,
        }
        path.with_name(CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


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
