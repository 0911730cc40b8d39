"""A session against the library itself: the same ids in, the same tokens out, all of it noted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.cli.chat_session import Manner, Session
from open_mythos.config.mythos import MythosConfig
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.chat import encode_prompt
from open_mythos.data.conversations import read_conversations
from open_mythos.errors import InputError
from open_mythos.generate.params import SamplingParams
from open_mythos.model.mythos import OpenMythos


GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)


@pytest.fixture
def build(tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]) -> Any:
    """`build(chats, manner=..., **config)`: a session with a random model that reads bytes."""

    def make(chats: bool = True, manner: Manner | None = None, **changes: Any) -> Session:
        sizes = {"vocab_size": 257, "max_seq_len": 128, "max_output_tokens": 24, **changes}
        model: OpenMythos = randomised(OpenMythos(tiny_config(**sizes))).eval()
        tokenizer = ByteTokenizer() if chats else ByteTokenizer(chat_template=None)
        return Session(model, tokenizer, Manner(GREEDY) if manner is None else manner)

    return make


def spoken(session: Session, line: str) -> str:
    return "".join(piece.text for piece in session.answer(line))


def generated(session: Session, ids: list[int], count: int = 6) -> list[int]:
    """What `model.generate`, which knows nothing of sessions, adds to a prompt."""
    out = session.model.generate(
        torch.tensor([ids]), count, session.deepest, temperature=0.0, eos_token_id=None
    )
    return [int(i) for i in out[0, len(ids) :]]


def test_turns_are_answered_as_the_template_lays_them_out(build: Any) -> None:
    session, tokenizer = build(), ByteTokenizer()
    session.system = "be brief"
    history = [{"role": "system", "content": "be brief"}]
    for question in ("hello", "and then?"):
        history += [{"role": "user", "content": question}]
        expected = generated(session, encode_prompt(tokenizer, history))
        pieces = list(session.answer(question))
        assert [piece.token for piece in pieces] == expected
        answer = "".join(piece.text for piece in pieces)
        history += [{"role": "assistant", "content": answer}]
    assert session.turns == history[1:]


def test_an_answer_ends_with_the_turn(build: Any) -> None:
    session = build()
    end = session._end
    assert end is not None
    session.manner.params = SamplingParams(logit_bias={end: 1e9}, max_tokens=9)
    pieces = list(session.answer("hello"))
    assert [(p.token, p.text, p.finish) for p in pieces] == [(end, "", "stop")]


def test_a_text_is_continued_line_by_line(build: Any) -> None:
    session, tokenizer = build(chats=False), ByteTokenizer(chat_template=None)
    assert not session.by_turns
    text = ""
    for line in ("Once", "", "upon a time"):
        text = f"{text}\n{line}" if text and line else text + line
        expected = generated(session, tokenizer.encode(text))
        pieces = list(session.answer(line))
        assert [piece.token for piece in pieces] == expected
        text += "".join(piece.text for piece in pieces)
        assert session.text == text
    session.reset()
    assert (session.text, session.turns) == ("", [])


def test_text_can_be_continued_where_there_is_a_template_and_not_the_other_way(build: Any) -> None:
    chats, base = build(), build(chats=False)
    assert not Session(chats.model, ByteTokenizer(), by_turns=False).by_turns
    with pytest.raises(InputError, match="no chat template"):
        Session(base.model, ByteTokenizer(chat_template=None), by_turns=True)


def test_what_is_broken_off_is_kept_as_far_as_it_came(build: Any) -> None:
    session = build()
    answer = session.answer("hello")
    begun = next(answer).text + next(answer).text
    answer.close()
    assert session.turns == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": begun},
    ]
    session.answer("never begun").close()
    assert len(session.turns) == 2
    assert spoken(session, "again") == session.turns[3]["content"]


def test_the_oldest_turns_give_way_and_stay_in_the_record(build: Any) -> None:
    session, tokenizer = build(), ByteTokenizer()
    for i in range(8):  # of 15 tokens each, and two at least for an answer, are more than 122
        told = session.turns[:]
        answer = session.answer(f"a question, {i}")
        asked = [*told[session.left_out :], {"role": "user", "content": f"a question, {i}"}]
        ids = encode_prompt(tokenizer, asked)
        assert session.left_out % 2 == 0
        assert len(ids) + 6 <= 128
        if session.left_out:  # one pair more would have had no room
            longer = [*told[session.left_out - 2 :], asked[-1]]
            assert len(encode_prompt(tokenizer, longer)) + 6 > 128
        assert [piece.token for piece in answer] == generated(session, ids)
    assert session.left_out > 0
    assert len(session.turns) == 16


def test_a_long_text_is_read_from_as_far_back_as_there_is_room(build: Any) -> None:
    session = build(chats=False)
    line = "x" * 150 + "y" * 150
    pieces = list(session.answer(line))
    assert session.left_out == 300 - (128 - 6)
    ids = ByteTokenizer().encode(line)[session.left_out :]
    assert [piece.token for piece in pieces] == generated(session, ids)


def test_answers_have_what_room_there_is(build: Any) -> None:
    free = Manner(SamplingParams(temperature=0.0, max_tokens=None, ignore_eos=True))
    session = build(manner=free)
    assert len(list(session.answer("hello"))) == 24
    session.manner.params = SamplingParams(temperature=0.0, max_tokens=500, ignore_eos=True)
    assert len(list(session.answer("hello"))) == 24
    with pytest.raises(InputError, match="say less"):
        session.answer("x" * 300)
    assert len(session.turns) == 4


def test_the_depth_is_the_sessions_and_is_what_tokens_take(build: Any) -> None:
    session = build(readout="last")
    assert (session.deepest, session.depth) == (3, "3 loops")
    session.manner.n_loops = 1
    assert session.depth == "1 loop"
    assert {piece.loops for piece in session.answer("a")} == {1}
    session.manner.n_loops, session.manner.exit = 3, "fixed:2"
    assert session.depth == "at most 3 loops, exit fixed:2"
    assert {piece.loops for piece in session.answer("a")} == {2}
    assert "own halting" in build(readout="act").depth


def test_a_seeded_session_says_the_same_again_but_not_twice_the_same(build: Any) -> None:
    session = build(manner=Manner(SamplingParams(max_tokens=8, ignore_eos=True)))
    said = []
    for _ in range(2):
        seeded = torch.Generator().manual_seed(5)
        again = Session(session.model, ByteTokenizer(), session.manner, generator=seeded)
        said.append([[p.token for p in again.answer("a")] for _ in range(2)])
        assert again.turns[1] != again.turns[3]
    assert said[0] == said[1]


def test_what_is_saved_can_be_learnt_from(build: Any, tmp_path: Path) -> None:
    session, path = build(), tmp_path / "talk.jsonl"
    session.system = "be brief"
    spoken(session, "héllo")
    assert session.save(path).startswith("2 turns")
    spoken(session, "more")
    session.save(path)
    (found,) = read_conversations(path)
    assert list(found.messages) == [{"role": "system", "content": "be brief"}, *session.turns]
    assert json.loads(path.read_text(encoding="utf-8"))["messages"][1]["content"] == "héllo"
    with pytest.raises(InputError, match="did not write"):
        build().save(path)
    with pytest.raises(InputError, match="cannot write"):
        session.save(tmp_path / "none" / "talk.jsonl")
    base = build(chats=False)
    spoken(base, "Once")
    base.save(tmp_path / "text")
    assert (tmp_path / "text").read_text(encoding="utf-8") == base.text + "\n"
