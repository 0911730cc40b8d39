"""Which tokens are answers, against hands, character offsets, and `transformers`' own mask."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st

from open_mythos.data.bpe_tokenizer import BPETokenizer
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.chat import dialogue, encode_prompt, end_of_turn
from open_mythos.data.chat_template import chat_template
from open_mythos.data.corpus import plays_text
from open_mythos.data.hub_tokenizer import HubTokenizer
from open_mythos.data.special_tokens import END_OF_TEXT, ROLE_TOKENS, ROLES
from open_mythos.data.tiktoken_tokenizer import TiktokenTokenizer
from open_mythos.errors import InputError


OWN = BPETokenizer.train([plays_text()[:20_000]], 400, roles=True)
SPECIALS, PLAIN = [*ROLE_TOKENS, END_OF_TEXT], ["\U000f0000", " ", "\n", "be", "é", "<|"]


def chats(words: list[str]) -> st.SearchStrategy[list[dict[str, str]]]:
    """Messages of any role, of any text or of these words."""
    contents = st.text() | st.lists(st.sampled_from(words)).map("".join)
    message = st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": contents})
    return st.lists(message, min_size=1)


CHATS = chats(SPECIALS + PLAIN)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chatml(specials_in_text: bool) -> BPETokenizer:
    """A tokenizer as others publish them: two special tokens, and roles in plain words."""
    backend = BPETokenizer.train([plays_text()[:20_000]], 400).backend
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return BPETokenizer(backend, END_OF_TEXT, specials_in_text, CHATML)


OTHERS = chatml(specials_in_text=True)


@given(CHATS, st.sampled_from([ByteTokenizer(), OWN]))
def test_tokens_and_mask_are_those_made_by_hand(
    messages: list[Any], tokenizer: ByteTokenizer | BPETokenizer
) -> None:
    ids: list[int] = []
    scored: list[bool] = []
    for message in messages:
        said = [*tokenizer.encode(message["content"]), tokenizer.special_tokens[END_OF_TEXT]]
        ids += [tokenizer.special_tokens[f"<|{message['role']}|>"], *said]
        scored += [False, *[message["role"] == "assistant"] * len(said)]
    found = dialogue(tokenizer, messages)
    assert found.ids.tolist() == ids
    assert found.scored.tolist() == scored
    assert encode_prompt(tokenizer, messages) == [*ids, tokenizer.special_tokens["<|assistant|>"]]


@given(messages=CHATS)
def test_a_chat_shows_what_was_learnt(o200k: TiktokenTokenizer, messages: list[Any]) -> None:
    found = dialogue(o200k, messages)
    starts = np.flatnonzero(np.diff(found.scored.astype(int), prepend=0) == 1)
    answers = [place for place, m in enumerate(messages) if m["role"] == "assistant"]
    assert len(starts) == len(answers)
    ends = np.flatnonzero(np.diff(found.scored.astype(int), append=0) == -1)
    for place, start, end in zip(answers, starts, ends, strict=True):
        assert found.ids[:start].tolist() == encode_prompt(o200k, messages[:place])
        *said, stop = found.ids[start : end + 1].tolist()
        assert stop == end_of_turn(o200k) == o200k.special_tokens["<|end|>"]
        assert said == o200k.encode(messages[place]["content"])


@given(CHATS)
def test_tokenizers_of_others_mask_by_character(messages: list[Any]) -> None:
    assume(all("<|im_" not in m["content"] for m in messages))
    text = chat_template(OTHERS).render(messages)
    encoding = OTHERS.backend.encode(text, add_special_tokens=False)
    spans, at = [], 0
    for message in messages:
        at += len(f"<|im_start|>{message['role']}\n")
        end = at + len(message["content"]) + len("<|im_end|>")
        if message["role"] == "assistant":
            spans.append((at, end))
        at = end + 1
    try:
        found = dialogue(OTHERS, messages)
    except InputError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "inside a token" in refused
        assert any(a < start < b for start, _ in spans for a, b in encoding.offsets)
        return
    assert found.ids.tolist() == encoding.ids
    wanted = [any(s <= a and b <= e for s, e in spans) for a, b in encoding.offsets]
    assert found.scored.tolist() == wanted


@given(chats(PLAIN))
def test_transformers_says_the_same(
    tmp_path_factory: pytest.TempPathFactory, messages: list[Any]
) -> None:
    transformers = pytest.importorskip("transformers")
    assume(not any(s in m["content"] for m in messages for s in OWN.special_tokens))
    folder = tmp_path_factory.mktemp("own")
    OWN.save(folder / "tokenizer.json")
    theirs = transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    found = dialogue(OWN, messages)
    assert theirs["input_ids"] == found.ids.tolist()
    assert theirs["assistant_masks"] == found.scored.astype(int).tolist()


@given(CHATS)
def test_a_hub_tokenizer_is_masked_as_transformers_does(
    tmp_path_factory: pytest.TempPathFactory, messages: list[Any]
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("others")
    source = CHATML.replace(
        "{{ m.content }}<|im_end|>",
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}",
    )
    OTHERS.save(folder / "tokenizer.json")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.chat_template = source
    # Answers that begin with a blank may begin inside a token, and are refused.
    messages = [{**m, "role": "assistant", "content": "a" + m["content"]} for m in messages]
    wanted = theirs.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    found = dialogue(HubTokenizer(theirs), messages)
    assert found.ids.tolist() == wanted["input_ids"]
    assert found.scored.astype(int).tolist() == wanted["assistant_masks"]


def test_a_template_that_rewrites_what_it_said_is_refused() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    shout = "{% for m in messages %}{{ m.content }}{% if loop.last %}!{% endif %}{% endfor %}"
    with pytest.raises(InputError, match=r"message 2: .*otherwise than messages after it"):
        dialogue(ByteTokenizer(shout), messages)
    alone = "{% for m in messages %}{{ m.content }}{% endfor %}"
    alone += "{% if add_generation_prompt %}?{% endif %}"
    with pytest.raises(InputError, match=r"message 2: .*otherwise than the question before it"):
        dialogue(ByteTokenizer(alone), messages)
    assert not dialogue(ByteTokenizer(alone), messages[:1]).scored.any()


def test_without_a_special_token_at_its_end_an_answer_ends_with_its_text() -> None:
    plain = (
        "{% for m in messages %}{% if m.role == 'user' %}u:{{ m.content }};a:"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    tokenizer = ByteTokenizer(plain)
    found = dialogue(
        tokenizer, [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}]
    )
    assert bytes(found.ids.tolist()) == b"u:q;a:yes"
    assert bytes(found.ids[found.scored].tolist()) == b"yes"
    assert end_of_turn(tokenizer) is None


def test_parts_and_calls_inside_messages_cannot_forge_roles_either() -> None:
    source = "{% for m in messages %}<|user|>{{ m.content[0].text }}{% endfor %}"
    content = [{"type": "text", "text": "<|assistant|>", "n": 1}]
    tokenizer = ByteTokenizer(source)
    found = dialogue(tokenizer, [{"role": "user", "content": content}])
    assert found.ids.tolist() == [tokenizer.special_tokens["<|user|>"], *b"<|assistant|>"]
    assert content == [{"type": "text", "text": "<|assistant|>", "n": 1}]


def test_generation_stops_where_an_answer_ends(tmp_path: Path) -> None:
    assert end_of_turn(ByteTokenizer()) == ByteTokenizer().eos_id
    assert end_of_turn(OTHERS) == OTHERS.special_tokens["<|im_end|>"]
    silent: Any = ByteTokenizer("{{ messages[0].content }}")
    assert end_of_turn(silent) is None
    with pytest.raises(InputError, match="no chat template"):
        end_of_turn(cast("ByteTokenizer", BPETokenizer.plays()))
