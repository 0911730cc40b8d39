"""transformers' tokenizer says the ids that ours says, and comes back as ours from its folder."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from transformers import AutoTokenizer

from open_mythos.data.bpe_tokenizer import BPETokenizer
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.hub_tokenizer import HubTokenizer
from open_mythos.data.tokenizer import MythosTokenizer, tokenizer_from_folder
from open_mythos.errors import InputError
from open_mythos.hf.tokenizer import byte_characters, fast_tokenizer, tiktoken_backend


WORDS = ["Once upon a time there was a loop. ", "It ran again. ", "Wörter, 漢字 und 🎉."]
TOKENIZERS = {
    "bytes": ByteTokenizer(),
    "bytes without chats": ByteTokenizer(chat_template=None),
    "plays": BPETokenizer.plays(),
    "chats": BPETokenizer.train(WORDS, 300, roles=True),
}


@pytest.fixture(params=TOKENIZERS.values(), ids=TOKENIZERS)
def ours(request: pytest.FixtureRequest) -> Any:
    return request.param


# Spellings of special tokens have their own test; Hypothesis draws the strings of our source too.
@given(text=st.text(max_size=40).filter(lambda t: "<|" not in t) | st.sampled_from(WORDS))
@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_and_texts_are_ours(name: str, text: str) -> None:
    ours = TOKENIZERS[name]
    fast = _fast(name)
    assert fast(text)["input_ids"] == ours.encode(text)
    assert fast.decode(ours.encode(text)) == text


def _fast(name: str, made: dict[str, Any] = {}) -> Any:  # noqa: B006 -- made once
    return made.setdefault(name, fast_tokenizer(TOKENIZERS[name]))


def test_special_spellings_count_where_there_are_chats_alone(ours: Any) -> None:
    text, fast = "a <|endoftext|> b", fast_tokenizer(ours)
    counted = ours.chat_template is not None
    assert fast(text)["input_ids"] == (ours.encode_marked if counted else ours.encode)(text)
    assert fast.eos_token_id == fast.pad_token_id == ours.eos_id
    assert len(fast) == ours.vocab_size


def test_a_batch_is_padded_on_the_left_without_token_types(ours: Any) -> None:
    found = fast_tokenizer(ours, 99)(["a", "abcdefgh"], padding=True)
    assert set(found) == {"input_ids", "attention_mask"}
    assert found["attention_mask"][0][0] == 0
    assert found["input_ids"][0][-1] == ours.encode("a")[-1]
    assert fast_tokenizer(ours, 99).model_max_length == 99


def test_a_folder_is_read_by_transformers_and_by_this_library(ours: Any, tmp_path: Path) -> None:
    fast_tokenizer(
        MythosTokenizer("byte") if ours is TOKENIZERS["bytes"] else ours
    ).save_pretrained(tmp_path)
    again, native = AutoTokenizer.from_pretrained(tmp_path), tokenizer_from_folder(tmp_path)
    for text in (*WORDS, "a <|endoftext|> b"):
        assert again(text)["input_ids"] == fast_tokenizer(ours)(text)["input_ids"]
        assert native.encode(text) == ours.encode(text)
    assert native.eos_id == ours.eos_id
    assert again.padding_side == "left"


@pytest.mark.parametrize("name", ["bytes", "chats"])
def test_chats_are_laid_out_alike(name: str) -> None:
    ours, said = TOKENIZERS[name], [{"role": "user", "content": "hi"}]
    laid = fast_tokenizer(ours).apply_chat_template(
        said, add_generation_prompt=True, tokenize=False
    )
    assert laid == "<|user|>hi<|endoftext|><|assistant|>"
    ids = fast_tokenizer(ours).apply_chat_template(
        said, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert ids == ours.encode_marked(laid)


def test_what_transformers_made_stays_as_it_is() -> None:
    inner = fast_tokenizer(ByteTokenizer())
    assert fast_tokenizer(HubTokenizer(inner)) is inner


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(InputError, match="int"):
        fast_tokenizer(3)  # type: ignore[arg-type]


class Encoding:
    """A vocabulary as tiktoken keeps one: bytes, then what was merged, in order."""

    name = "small"
    _pat_str = r"\s?\p{L}+|\s?[^\s\p{L}]+|\s+"

    def __init__(self, specials: dict[str, int]) -> None:
        merged = [b"an", b"ana", b"ban", b"banana", "ü".encode(), b" b"]
        self._mergeable_ranks = {bytes([i]): i for i in range(256)}
        self._mergeable_ranks |= {token: 256 + i for i, token in enumerate(merged)}
        self._special_tokens = specials


def test_a_tiktoken_vocabulary_merges_by_rank() -> None:
    tiktoken = pytest.importorskip("tiktoken")
    made = Encoding({"<|end|>": 262, "<|again|>": 262, "<|start|>": 263})
    theirs = tiktoken.Encoding(
        made.name,
        pat_str=made._pat_str,
        mergeable_ranks=made._mergeable_ranks,
        special_tokens={"<|end|>": 262, "<|start|>": 263},
    )
    ours = tiktoken_backend(made)
    for text in ("banana ban anana bananas", "ünder bü 12 ananan", "nanaban  b", ""):
        assert ours.encode(text).ids == theirs.encode(text)
        assert ours.decode(ours.encode(text).ids) == text
    assert ours.token_to_id("<|start|>") == 263
    with pytest.raises(InputError, match="small"):
        tiktoken_backend(Encoding({"<|end|>": 299}))


def test_every_byte_has_a_character_of_its_own() -> None:
    chars = byte_characters()
    assert len(set(chars)) == 256
    assert all(c.isprintable() and not c.isspace() for c in chars)
    assert chars[ord("a")] == "a"
