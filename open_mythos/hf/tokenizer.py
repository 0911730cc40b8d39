"""Our tokenizers as transformers' fast ones: the same ids, for pipelines and trainers."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer as Backend,
    decoders,
    models,
    pre_tokenizers,
)
from transformers import PreTrainedTokenizerFast

from open_mythos.data.bpe_tokenizer import SPECIALS_IN_TEXT, BPETokenizer
from open_mythos.data.byte_tokenizer import BYTES, ByteTokenizer
from open_mythos.data.hub_tokenizer import HubTokenizer
from open_mythos.data.tiktoken_tokenizer import TiktokenTokenizer
from open_mythos.data.tokenizer import MythosTokenizer, Tokenizer
from open_mythos.errors import InputError


INPUTS = ["input_ids", "attention_mask"]  # no token types: no network of ours has them


def fast_tokenizer(tokenizer: Tokenizer, max_length: int | None = None) -> Any:
    """The tokenizer as transformers has it: padding on the left, with the end of a text.

    Spellings of special tokens inside a text are ordinary text, as with ours, unless there is a
    chat template: transformers then knows no other way to encode a conversation.

    Args:
        tokenizer: One of this library's, or what `transformers` made.
        max_length: Positions of the network, after which transformers warns.

    Raises:
        InputError: If it is of a class that has no such form.
    """
    inner: Any = tokenizer.answering if isinstance(tokenizer, MythosTokenizer) else tokenizer
    if isinstance(inner, HubTokenizer):
        return inner.inner
    if isinstance(inner, BPETokenizer):
        backend = Backend.from_str(inner.backend.to_str())
    elif isinstance(inner, ByteTokenizer):
        backend = byte_backend(inner)
    elif isinstance(inner, TiktokenTokenizer):
        backend = tiktoken_backend(inner.encoding)
    else:
        raise InputError(
            f"a {type(inner).__name__} has no form that transformers reads; give a ByteTokenizer, "
            "a BPETokenizer, a TiktokenTokenizer or a Hugging Face tokenizer"
        )
    return _wrapped(backend, inner, max_length)


def byte_backend(tokenizer: ByteTokenizer) -> Backend:
    """A BPE without merges, whose tokens are the bytes at their own ids."""
    specials = {i: name for name, i in tokenizer.special_tokens.items()}
    vocab = {char: i for i, char in enumerate(byte_characters()) if i not in specials}
    vocab |= {name: i for i, name in specials.items()}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in specials.values()])
    return backend


def tiktoken_backend(encoding: Any) -> Backend:
    """The byte sequences of a tiktoken Encoding as a BPE, its special tokens at their ids.

    Raises:
        InputError: If special tokens leave a gap behind the byte sequences.
    """
    ranks: Mapping[bytes, int] = encoding._mergeable_ranks
    chars = byte_characters()
    said = {token: "".join(chars[byte] for byte in token) for token in ranks}
    merges: list[tuple[int, str, str]] = []
    for token, rank in ranks.items():
        if len(token) > 1:
            left, right = _last_merge(ranks, token, rank)
            merges.append((rank, said[left], said[right]))
    vocab = {said[token]: rank for token, rank in ranks.items()}
    pairs = [(left, right) for _, left, right in sorted(merges)]
    backend = Backend(models.BPE(vocab=vocab, merges=pairs, ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(encoding._pat_str), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    by_id = {i: name for name, i in sorted(encoding._special_tokens.items(), reverse=True)}
    if sorted(by_id) != list(range(len(ranks), len(ranks) + len(by_id))):
        raise InputError(f"the special tokens of {encoding.name} do not follow its byte sequences")
    backend.add_special_tokens([AddedToken(by_id[i], special=True) for i in sorted(by_id)])
    return backend


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies.

    Printable bytes stand for themselves; the others, in order, for U+0100 and up (GPT-2).
    """
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x100 + BYTES))
    return [chr(byte) if byte in plain else chr(next(spare)) for byte in range(BYTES)]


def _last_merge(ranks: Mapping[bytes, int], token: bytes, rank: int) -> tuple[bytes, bytes]:
    """The two tokens that were joined last to make `token`: all merges below its rank, done."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        joined = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
        at = min(range(len(joined)), key=joined.__getitem__)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _wrapped(backend: Backend, inner: Any, max_length: int | None) -> PreTrainedTokenizerFast:
    template = inner.chat_template
    ours = isinstance(inner, BPETokenizer) and not inner.backend.encode_special_tokens
    named: dict[str, Any] = {**inner.special_names, SPECIALS_IN_TEXT: ours}
    if "eos_token" in named:
        named.setdefault("pad_token", named["eos_token"])
    if max_length is not None:
        named["model_max_length"] = max_length
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=INPUTS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        split_special_tokens=not (ours or template is not None),
        **named,
    )
    made.chat_template = template
    return made
