"""Streamed text against the same tokens decoded at once, cut at stop strings by hand."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.errors import InputError
from open_mythos.generate.continuation import Ask, Continuations, Token
from open_mythos.generate.params import Constraint, SamplingParams
from open_mythos.generate.speculate import Draft
from open_mythos.generate.text import Piece, Writer, stream_text
from open_mythos.model.mythos import OpenMythos


Build = Callable[..., Any]
BYTES = ByteTokenizer()
LETTERS = {ord(c): 12.0 for c in "ab"} | dict.fromkeys(b"\xc3\xa9", 12.0)


@pytest.fixture
def model(tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]) -> Any:
    """Room for all bytes, the end of text, and padding of the vocabulary."""
    return randomised(OpenMythos(tiny_config(vocab_size=264))).double().eval()


def tokens_of(model: Any, prompt: str, params: SamplingParams, index: int = 0) -> list[int]:
    ask = Ask(BYTES.encode(prompt), params, params.seed or 0, index, BYTES.eos_id)
    batch, found = Continuations(model, [ask]), []
    while batch.going:
        (token,) = batch.step()
        assert token is not None
        found.append(token.token)
    return found


def written(tokens: list[int], params: SamplingParams, ends: bool = True) -> Piece:
    """All pieces of these tokens as one, the last of which ends the text."""
    writer, pieces = Writer(BYTES, params), []
    for n, token in enumerate(tokens):
        last = n + 1 == len(tokens)
        finish = ("stop" if token == BYTES.eos_id else "length") if last and ends else None
        pieces.append(writer.piece(Token(token, 3, None, finish)))
        if pieces[-1].finish is not None:
            break
    text = "".join(piece.text for piece in pieces)
    end = pieces[-1]
    return Piece(text, end.token, len(pieces), None, end.finish, end.matched)


@given(tokens=st.lists(st.sampled_from([97, 98, 0xC3, 0xA9]), min_size=1, max_size=12))
def test_pieces_are_the_text_up_to_the_first_stop(tokens: list[int]) -> None:
    whole = BYTES.decode(tokens)
    got = written(tokens, SamplingParams(stop=("aba", "\u00e9b")))
    found = re.search("aba|\u00e9b", whole)
    assert got.text == (whole if found is None else whole[: found.start()])
    assert got.matched == (None if found is None else found[0])
    assert got.finish == ("length" if found is None else "stop")
    if found is None:
        assert got.loops == len(tokens)
    else:  # no later than the token that completes it
        assert got.loops == next(
            n for n in range(1, len(tokens) + 1) if found[0] in BYTES.decode(tokens[:n])
        )


def test_an_end_is_not_shown_and_what_waited_comes_with_it() -> None:
    got = written([97, 0xC3, 256], SamplingParams(stop=("b",)))
    assert (got.text, got.finish, got.matched) == ("a\ufffd", "stop", None)


def test_stop_strings_do_not_count_in_the_first_tokens() -> None:
    assert written([97, 98, 97, 98], SamplingParams(stop=("ab",))).text == ""
    got = written([97, 98, 97, 98], SamplingParams(stop=("ab",), min_tokens=2))
    assert (got.text, got.finish) == ("ab", "stop")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_streamed_pieces_are_the_tokens_of_the_same_request(model: Any, seed: int) -> None:
    params = SamplingParams(
        seed=seed, max_tokens=12, stop=("aa", "b\u00e9"), logit_bias=LETTERS, logprobs=2
    )
    pieces = list(stream_text(model, BYTES, "prompt", params))
    tokens = tokens_of(model, "prompt", params)
    want = written(tokens, params)
    assert [p.token for p in pieces] == tokens[: want.loops]
    assert "".join(p.text for p in pieces) == want.text
    assert (pieces[-1].finish, pieces[-1].matched) == (want.finish, want.matched)
    assert all(p.finish is None for p in pieces[:-1])
    assert all(p.logprobs is not None and len(p.logprobs.top) == 2 for p in pieces)


def test_several_continuations_take_turns_and_differ(model: Any) -> None:
    params = SamplingParams(2.0, seed=4, n=3, max_tokens=8)  # too hot to agree by chance
    pieces = list(stream_text(model, BYTES, "x", params))
    lines = [[p.token for p in pieces if p.index == i] for i in range(3)]
    assert lines == [tokens_of(model, "x", params, i) for i in range(3)]
    assert len({tuple(line) for line in lines}) == 3


def test_without_a_seed_the_generator_or_torch_makes_one(model: Any) -> None:
    params = SamplingParams(max_tokens=6)

    def text(seed: int) -> list[int]:
        source = torch.Generator().manual_seed(seed)
        return [p.token for p in stream_text(model, BYTES, "x", params, generator=source)]

    assert text(1) == text(1) != text(2)
    torch.manual_seed(7)
    one = [p.token for p in stream_text(model, BYTES, "x", params)]
    torch.manual_seed(7)
    assert [p.token for p in stream_text(model, BYTES, "x", params)] == one


def test_an_empty_prompt_starts_from_the_end_of_a_text(model: Any) -> None:
    params = SamplingParams(seed=1, max_tokens=4)
    from_text = [p.token for p in stream_text(model, BYTES, "", params)]
    assert from_text == [p.token for p in stream_text(model, BYTES, [256], params)]

    class Endless(ByteTokenizer):
        eos_id = None  # type: ignore[assignment]

    with pytest.raises(InputError, match="no end of text to start from"):
        stream_text(model, Endless(), "", params)


def test_a_model_in_training_is_so_between_pieces_and_writes_without_dropout(
    tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]
) -> None:
    model = randomised(OpenMythos(tiny_config(vocab_size=264, dropout=0.5)))
    params = SamplingParams(seed=1, max_tokens=5)
    want = [p.token for p in stream_text(model.eval(), BYTES, "x", params)]
    model.train()
    got = []
    for piece in stream_text(model, BYTES, "x", params):
        assert model.training
        assert torch.is_grad_enabled()
        got.append(piece.token)
    assert got == want


def test_a_draft_changes_no_text_of_a_seed(
    tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]
) -> None:
    model = randomised(OpenMythos(tiny_config(vocab_size=264, readout="last"))).double().eval()
    params = SamplingParams(
        seed=3, n=2, max_tokens=12, stop=("aa",), logit_bias=LETTERS, logprobs=1
    )
    got = list(stream_text(model, BYTES, "x", params, draft=Draft(1, 3)))
    for index in range(2):
        line = [p for p in got if p.index == index]
        want = [p for p in stream_text(model, BYTES, "x", params) if p.index == index]
        shown = [(p.text, p.token, p.loops, p.finish, p.matched) for p in line]
        assert shown == [(p.text, p.token, p.loops, p.finish, p.matched) for p in want]
    with pytest.raises(InputError, match="leave draft or exit out"):
        stream_text(model, BYTES, "x", params, draft=Draft(), exit="fixed:1")


def test_constrained_text_has_its_form(model: Any) -> None:
    pytest.importorskip("llguidance")
    pattern = "(yes|no|\u00e9+!)"
    constraint = Constraint("regex", pattern)
    texts = set()
    for seed in range(6):
        params = SamplingParams(seed=seed, max_tokens=16, constraint=constraint, n=2)
        pieces = list(stream_text(model, BYTES, "answer: ", params))
        for index in range(2):
            line = [p for p in pieces if p.index == index]
            text = "".join(p.text for p in line)
            assert line[-1].finish == "length" or re.fullmatch(pattern, text), text
            texts.add(text)
    assert len(texts) > 1


def test_errors_come_with_the_call_and_not_with_the_first_piece(model: Any) -> None:
    with pytest.raises(InputError, match="max_output_tokens"):
        stream_text(model, BYTES, "x", SamplingParams(max_tokens=99))
