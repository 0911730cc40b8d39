"""A name leads to the right tokenizer, and a run's folder gives back the one it was given."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from open_mythos.data.tokenizer import (
    DEFAULT_MODEL_ID,
    BPETokenizer,
    ByteTokenizer,
    MythosTokenizer,
    TiktokenTokenizer,
    Tokenizer,
    decode_known,
    load_tokenizer,
    padded_vocab,
    require_room,
    save_tokenizer,
    tokenizer_from_folder,
)
from open_mythos.errors import ConfigError, InputError, MissingExtraError


BUILT_IN: list[Tokenizer] = [
    ByteTokenizer(),
    BPETokenizer.plays(),
    BPETokenizer.train(["a small text of one's own"], 300),
    MythosTokenizer("byte"),
    MythosTokenizer("plays"),
]


class FakeHF:
    """As a `transformers` tokenizer counts: its vocab_size leaves the special tokens out."""

    vocab_size = 100
    eos_token_id = 101

    def __len__(self) -> int:
        return 102

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = [ord(c) - 32 for c in text]
        return [100, *ids, 101] if add_special_tokens else ids

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        kept = [i for i in ids if i < 100] if skip_special_tokens else ids
        return "".join(chr(i + 32) for i in kept)

    def save_pretrained(self, folder: str) -> None:
        (Path(folder) / "tokenizer_config.json").write_text("{}")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Install a `transformers` that has everything cached; gives the names it was asked for."""
    names: list[str] = []

    def from_pretrained(name: str, local_files_only: bool = False) -> FakeHF:
        assert local_files_only
        names.append(name)
        return FakeHF()

    fake = SimpleNamespace(AutoTokenizer=SimpleNamespace(from_pretrained=from_pretrained))
    monkeypatch.setitem(sys.modules, "transformers", fake)
    return names


@given(st.sampled_from(BUILT_IN), st.text())
def test_all_keep_one_contract(tokenizer: Tokenizer, text: str) -> None:
    assert isinstance(tokenizer, Tokenizer)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.eos_id is not None
    assert tokenizer.eos_id < tokenizer.vocab_size
    assert tokenizer.decode([*ids, tokenizer.eos_id]) == text


def test_names_lead_to_classes(asked: list[str], tmp_path: Path) -> None:
    BPETokenizer.plays().save(tmp_path / "tokenizer.json")
    assert isinstance(load_tokenizer("byte"), ByteTokenizer)
    assert isinstance(load_tokenizer("plays"), BPETokenizer)
    assert isinstance(load_tokenizer(tmp_path), BPETokenizer)
    assert isinstance(load_tokenizer(str(tmp_path / "tokenizer.json")), BPETokenizer)
    assert asked == []
    assert isinstance(load_tokenizer("gpt2"), MythosTokenizer)
    assert isinstance(MythosTokenizer().tokenizer, FakeHF)
    assert asked == ["gpt2", DEFAULT_MODEL_ID] == ["gpt2", "openai/gpt-oss-20b"]


def test_hub_tokenizers_count_and_skip_special_tokens(asked: list[str]) -> None:
    tokenizer = MythosTokenizer("some/model")
    assert tokenizer.vocab_size == len(tokenizer) == 102
    assert tokenizer.eos_id == 101
    ids = tokenizer.encode("To be")
    assert max(ids) < 100
    assert tokenizer.decode([100, *ids, 101]) == "To be"
    with pytest.raises(InputError, match=r"U\+D800"):
        tokenizer.encode("\ud800")
    tokenizer.tokenizer.eos_token_id = None
    assert tokenizer.eos_id is None


@given(st.sampled_from(BUILT_IN), st.sampled_from(BUILT_IN), st.text())
def test_a_folder_gives_back_what_it_was_given_last(
    tmp_path_factory: pytest.TempPathFactory, old: Tokenizer, new: Tokenizer, text: str
) -> None:
    folder = tmp_path_factory.mktemp("run") / "made" / "here"
    save_tokenizer(old, folder)
    save_tokenizer(new, folder)
    found = tokenizer_from_folder(folder)
    assert found.encode(text) == new.encode(text)
    assert (found.vocab_size, found.eos_id) == (new.vocab_size, new.eos_id)
    # No file of the old one is left for a reader that trusts it.
    save_tokenizer(new, folder / "fresh")
    (folder / "fresh").rename(fresh := folder.parent / "fresh")
    assert {p.name: p.read_text() for p in folder.iterdir()} == {
        p.name: p.read_text() for p in fresh.iterdir()
    }


def test_a_folder_of_a_slow_hub_tokenizer_goes_back_to_transformers(
    asked: list[str], tmp_path: Path
) -> None:
    save_tokenizer(MythosTokenizer("some/model"), tmp_path)
    found = tokenizer_from_folder(tmp_path)
    assert found.vocab_size == 102
    assert asked == ["some/model", str(tmp_path)]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/no/such/place",
        "./here",
        "~/no-such-place",
        "~nobody/x",
        "a b",
        "a/b/c",
        "lost.json",
        "c:\\tokens",
    ],
)
def test_paths_that_lead_nowhere_are_not_taken_for_hub_ids(asked: list[str], name: str) -> None:
    with pytest.raises(InputError, match=r"no tokenizer at .*'byte' and 'plays'"):
        load_tokenizer(name)
    assert asked == []


def test_folders_without_a_tokenizer_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no tokenizer\.json"):
        tokenizer_from_folder(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        tokenizer_from_folder(tmp_path / "missing")
    (tmp_path / "tokenizer.json").write_text("not json")
    with pytest.raises(InputError, match="cannot read a tokenizer"):
        tokenizer_from_folder(tmp_path)


def test_a_hub_id_without_transformers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"some/model.*open-mythos\[hf\]"):
        MythosTokenizer("some/model")
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(MissingExtraError, match=r"gpt-oss-20b.*\[tok\].*open-mythos\[hf\]"):
        MythosTokenizer()


def test_o200k_stands_for_gpt_oss_where_the_hubs_own_is_not_here(
    monkeypatch: pytest.MonkeyPatch,
    o200k: TiktokenTokenizer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with caplog.at_level("WARNING"):
        found = MythosTokenizer()
    assert found.vocab_size == o200k.vocab_size
    assert found.encode("To be") == o200k.encode("To be")
    assert "not compared with the hub's file" in found.note
    assert found.note in caplog.text
    assert MythosTokenizer("o200k_harmony").note == ""
    assert isinstance(load_tokenizer("o200k_harmony"), TiktokenTokenizer)


@given(st.text())
def test_o200k_is_saved_as_a_name_and_a_hash(
    o200k: TiktokenTokenizer, tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.mktemp("run")
    save_tokenizer(o200k, folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4096
    found = tokenizer_from_folder(folder)
    assert isinstance(found, TiktokenTokenizer)
    assert found.encode(text) == o200k.encode(text)
    assert found.chat_template == o200k.chat_template


@pytest.mark.parametrize("tokenizer", BUILT_IN, ids=lambda t: type(t).__name__)
def test_a_chat_template_goes_with_its_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    before = tokenizer.chat_template
    for source in ("{{ messages[0].content }}", "{{ eos_token }}"):
        tokenizer.chat_template = source
        save_tokenizer(tokenizer, tmp_path)
        found: Any = tokenizer_from_folder(tmp_path)
        assert found.chat_template == source
        assert found.special_names == tokenizer.special_names
        assert found.special_tokens == tokenizer.special_tokens
    tokenizer.chat_template = before


@given(st.sampled_from(BUILT_IN), st.text())
def test_one_class_answers_as_the_one_underneath(tokenizer: Any, text: str) -> None:
    one = MythosTokenizer("byte")
    one.tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    assert one.encode_marked(text) == tokenizer.encode_marked(text)
    assert one.encode_documents([text])[0].tolist() == tokenizer.encode(text)
    assert one.splits_bytes
    assert one.special_tokens == tokenizer.special_tokens


@given(st.integers(1, 10**6), st.integers(1, 512))
def test_a_padded_vocabulary_is_the_next_multiple(size: int, multiple: int) -> None:
    padded = padded_vocab(size, multiple)
    assert padded % multiple == 0
    assert size <= padded < size + multiple


def test_a_model_too_small_for_its_tokenizer_is_told_its_size(o200k: TiktokenTokenizer) -> None:
    assert padded_vocab(ByteTokenizer()) == 320
    assert padded_vocab(o200k, 128) == 201_088
    require_room(ByteTokenizer(), 257)
    with pytest.raises(ConfigError, match=r"257 tokens.* is 256; set model\.vocab_size=320"):
        require_room(ByteTokenizer(), 256)
    with pytest.raises(InputError, match="multiples of 0"):
        padded_vocab(5, 0)


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    other: Any = SimpleNamespace(vocab_size=1, eos_id=None)
    with pytest.raises(InputError, match="cannot save a SimpleNamespace"):
        save_tokenizer(other, tmp_path)


def test_ids_that_pad_a_vocabulary_stand_for_nothing() -> None:
    tokenizer = ByteTokenizer()
    ids = [*tokenizer.encode("to be"), tokenizer.vocab_size, 319]
    assert decode_known(tokenizer, ids) == "to be"
    with pytest.raises(InputError):
        tokenizer.decode(ids)
