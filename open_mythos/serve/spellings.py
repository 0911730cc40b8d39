"""Spellings: the text and the bytes of single tokens, as reports of log-probabilities show them."""

from functools import lru_cache

from open_mythos.data.tokenizer import Tokenizer
from open_mythos.generate.detokenise import BROKEN


class Spellings:
    """Of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Read the special tokens and, where the tokenizer tells it, the bytes of all."""
        self._tokenizer = tokenizer
        special = getattr(tokenizer, "special_tokens", None) or {}
        self._special: dict[int, str] = {number: name for name, number in special.items()}
        told = tokenizer.vocabulary() if hasattr(tokenizer, "vocabulary") else None
        self._bytes: list[bytes] | None = told if isinstance(told, list) else None
        self.text = lru_cache(maxsize=1 << 16)(self._text)

    def _text(self, token: int) -> str:
        """A token alone; where it is a part of a character its bytes, as OpenAI writes them."""
        if token in self._special:
            return self._special[token]
        if not 0 <= token < self._tokenizer.vocab_size:
            return f"token:{token}"  # only pads the model's vocabulary
        text = self._tokenizer.decode([token])
        if BROKEN not in text:
            return text
        raw = self.raw(token)
        if raw is None:
            return f"token:{token}"
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def raw(self, token: int) -> list[int] | None:
        """The bytes of a token; None where nobody knows."""
        if token in self._special:
            return list(self._special[token].encode())
        if self._bytes is not None and 0 <= token < len(self._bytes):
            return list(self._bytes[token])
        if not 0 <= token < self._tokenizer.vocab_size:
            return None
        text = self._tokenizer.decode([token])
        return None if BROKEN in text else list(text.encode("utf-8", "replace"))
