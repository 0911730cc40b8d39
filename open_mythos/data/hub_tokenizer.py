"""HubTokenizer: an object of `transformers` behind the calls that our own tokenizers answer."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from open_mythos.data.byte_tokenizer import utf8
from open_mythos.errors import InputError


class HubTokenizer:
    """Any Hugging Face tokenizer, by its own rules: a special token spelt in a text is one.

    Attributes:
        inner: What `transformers` made.
    """

    # Some mark where a text begins, so that ids of the parts are not ids of the whole.
    splits_bytes = False

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included, which the inner `vocab_size` leaves out."""
        return len(self.inner)

    @property
    def eos_id(self) -> int | None:
        """Id that ends a text, or None."""
        found = self.inner.eos_token_id
        return None if found is None else int(found)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the special tokens by their spelling."""
        added = self.inner.added_tokens_decoder.items()
        return {str(token): int(i) for i, token in added if token.special}

    @property
    def special_names(self) -> dict[str, str]:
        """What a chat template may call special tokens by."""
        named = self.inner.special_tokens_map.items()
        return {str(name): token for name, token in named if isinstance(token, str)}

    @property
    def chat_template(self) -> str | None:
        """Jinja text that lays out a chat; of several, the default one."""
        found = getattr(self.inner, "chat_template", None)
        if isinstance(found, dict):
            found = found.get("default")
        return found if isinstance(found, str) else None

    @chat_template.setter
    def chat_template(self, source: str | None) -> None:
        self.inner.chat_template = source

    def encode(self, text: str) -> list[int]:
        """Ids of the text, with nothing added at either end.

        Raises:
            InputError: When text is not a str, or holds a lone surrogate.
        """
        utf8(text)
        return [int(i) for i in self.inner.encode(text, add_special_tokens=False)]

    def encode_marked(self, text: str) -> list[int]:
        """The same: spellings of special tokens count in every text."""
        return self.encode(text)

    def encode_documents(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        """Ids of many texts, each as an array.

        Raises:
            InputError: When one is not a str, or holds a lone surrogate.
        """
        for text in texts:
            utf8(text)
        if not texts:
            return []
        found = self.inner(list(texts), add_special_tokens=False, return_attention_mask=False)
        return [np.asarray(ids, dtype=np.uint32) for ids in found["input_ids"]]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, special tokens skipped."""
        return str(self.inner.decode([int(i) for i in ids], skip_special_tokens=True))

    def vocabulary(self) -> str:
        """The `tokenizers` JSON, which says what each id stands for.

        Raises:
            InputError: When the object is of the slow kind, which has none.
        """
        backend = getattr(self.inner, "backend_tokenizer", None)
        if backend is None:
            raise InputError(
                f"a {type(self.inner).__name__} does not tell what its ids stand for; take the "
                "fast kind of the same tokenizer"
            )
        return str(backend.to_str())

    def save_folder(self, folder: str) -> None:
        """Write what `transformers` reads again.

        Raises:
            InputError: When the object cannot be saved.
        """
        if not hasattr(self.inner, "save_pretrained"):
            raise InputError(
                f"cannot save a {type(self.inner).__name__}; it has no save_pretrained"
            )
        self.inner.save_pretrained(folder)
