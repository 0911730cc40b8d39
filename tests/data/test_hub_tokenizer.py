"""An object of `transformers` answers as our own reading of the same files does."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from open_mythos.data.bpe_tokenizer import BPETokenizer
from open_mythos.data.hub_tokenizer import HubTokenizer
from open_mythos.errors import InputError


def fake(**changes: Any) -> Any:
    """As much of a `transformers` tokenizer as is asked of one."""

    class Fake(SimpleNamespace):
        def __len__(self) -> int:
            return 300

        def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
            assert options == {"add_special_tokens": False, "return_attention_mask": False}
            return {"input_ids": [[ord(c) for c in text] for text in texts]}

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            assert not add_special_tokens
            return [ord(c) for c in text]

    token = SimpleNamespace(special=True, __str__=lambda: "")
    return Fake(**{"eos_token_id": None, "added_tokens_decoder": {}, "token": token, **changes})


def test_it_counts_special_tokens_and_passes_text_on() -> None:
    tokenizer = HubTokenizer(fake(special_tokens_map={"eos_token": "</s>", "extra": ["a"]}))
    assert tokenizer.vocab_size == 300
    assert tokenizer.eos_id is None
    assert tokenizer.special_names == {"eos_token": "</s>"}
    assert [ids.tolist() for ids in tokenizer.encode_documents(["ab", ""])] == [[97, 98], []]
    assert tokenizer.encode_documents([]) == []
    assert tokenizer.encode_marked("ab") == tokenizer.encode("ab") == [97, 98]
    with pytest.raises(InputError, match=r"U\+D800"):
        tokenizer.encode_documents(["\ud800"])


def test_of_several_templates_the_default_one_counts() -> None:
    assert HubTokenizer(fake()).chat_template is None
    assert HubTokenizer(fake(chat_template="T")).chat_template == "T"
    tokenizer = HubTokenizer(fake(chat_template={"default": "D", "rag": "R"}))
    assert tokenizer.chat_template == "D"
    tokenizer.chat_template = "N"
    assert tokenizer.inner.chat_template == "N"


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot save a Fake"):
        HubTokenizer(fake()).save_folder(str(tmp_path))


# Transformers takes a spelling for its token; Hypothesis draws the strings of our own source too.
@given(text=st.text().filter(lambda text: "<|" not in text))
def test_transformers_reads_our_files_as_we_do(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    transformers = pytest.importorskip("transformers")
    ours = BPETokenizer.train(["to be or not to be"], 280, roles=True)
    folder = tmp_path_factory.mktemp("ours")
    ours.save(folder / "tokenizer.json")
    theirs = HubTokenizer(transformers.AutoTokenizer.from_pretrained(folder))
    assert theirs.encode(text) == ours.encode(text)
    assert theirs.encode_documents([text])[0].tolist() == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == text
    assert (theirs.vocab_size, theirs.eos_id) == (ours.vocab_size, ours.eos_id)
    assert theirs.special_tokens == ours.special_tokens
    assert theirs.special_names == ours.special_names
    assert theirs.chat_template == ours.chat_template


def test_the_vocabulary_is_the_fast_kinds_and_no_other() -> None:
    backend = BPETokenizer.plays().backend
    assert HubTokenizer(fake(backend_tokenizer=backend)).vocabulary() == backend.to_str()
    with pytest.raises(InputError, match=r"a Fake does not tell.*fast"):
        HubTokenizer(fake()).vocabulary()
