"""Grammars against Python's regular expressions and JSON; what is none is refused."""

import builtins
import json
import random
import re
from typing import Any

import pytest

from open_mythos.data.bpe_tokenizer import BPETokenizer
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.tokenizer import MythosTokenizer
from open_mythos.errors import InputError, MissingExtraError
from open_mythos.generate import constrain
from open_mythos.generate.constrain import GrammarGuide, build_guide
from open_mythos.generate.params import Constraint
from open_mythos.generate.rows import unpack


pytest.importorskip("llguidance")
BYTES, PLAYS = ByteTokenizer(), BPETokenizer.plays()
TOKENIZERS = {"bytes": BYTES, "plays": PLAYS, "wrapped": MythosTokenizer("plays")}


def allowed(guide: GrammarGuide, vocab: int) -> list[int]:
    return unpack(guide.allowed().unsqueeze(0), vocab)[0].nonzero().flatten().tolist()


def write(constraint: Constraint, tokenizer: Any, seed: int, most: int = 200) -> str:
    """A text of random tokens among those that the guide allows."""
    guide, draw = build_guide(constraint, tokenizer), random.Random(seed)
    assert guide is not None
    ids: list[int] = []
    while len(ids) < most:
        token = draw.choice(allowed(guide, tokenizer.vocab_size))
        if token == tokenizer.eos_id:
            return str(tokenizer.decode(ids))
        ids.append(token)
        guide.accept(token)
    raise AssertionError(f"no end after {most} tokens: {tokenizer.decode(ids)!r}")


@pytest.mark.parametrize("name", list(TOKENIZERS))
@pytest.mark.parametrize("pattern", ["(yes|no)", "[a-c]{2,4}x?", "é{1,3}€"])
def test_random_walks_match_the_expression(name: str, pattern: str) -> None:
    found = {write(Constraint("regex", pattern), TOKENIZERS[name], seed) for seed in range(12)}
    assert all(re.fullmatch(pattern, text) for text in found), found
    assert len(found) > 1


@pytest.mark.parametrize("name", ["bytes", "plays"])
def test_the_first_tokens_allowed_are_those_that_begin_a_match(name: str) -> None:
    """Counted over the whole vocabulary: a token may come first if some match begins with it."""
    tokenizer = TOKENIZERS[name]
    guide = build_guide(Constraint("regex", "(the cat|that|end)"), tokenizer)
    assert guide is not None
    spelt = {i: tokenizer.decode([i]) for i in range(tokenizer.vocab_size)}
    whole = ("the cat", "that", "end")
    want = [i for i, s in spelt.items() if s and any(w.startswith(s) for w in whole)]
    assert allowed(guide, tokenizer.vocab_size) == want


def test_a_schema_gives_json_of_that_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"const": 1}},
        "required": ["age"],
        "additionalProperties": False,
    }
    constraint = Constraint("json_schema", json.dumps(schema))
    for seed in range(8):
        read = json.loads(write(constraint, PLAYS, seed))
        assert isinstance(read["age"], int)
        assert 0 <= read["age"] <= 99
        assert set(read) <= {"age", "ok"}
        assert read.get("ok", 1) == 1


def test_json_is_an_object() -> None:
    guide = build_guide(Constraint("json"), BYTES)
    assert guide is not None
    assert allowed(guide, BYTES.vocab_size) == [ord("{")]


def test_a_grammar_of_rules_is_followed() -> None:
    rules = Constraint("lark", 'start: "(" start ")" | "x"\n')
    found = [write(rules, BYTES, seed) for seed in range(8)]
    assert all(re.fullmatch(r"(\(*)x(\)*)", t) for t in found)
    assert all(text.count("(") == text.count(")") for text in found)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Constraint("regex", "(open"), "no regex that can be followed.*invalid regex"),
        (Constraint("lark", "start: nobody"), "no lark that can be followed.*nobody"),
        (Constraint("json_schema", "{bad"), "schema of the constraint is no JSON"),
        (Constraint("json_schema", '{"type": "objekt"}'), "no json_schema.*objekt"),
    ],
    ids=str,
)
def test_what_is_no_grammar_is_refused_in_one_line(constraint: Constraint, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build_guide(constraint, PLAYS)
    assert "\n" not in str(caught.value)


def test_a_token_that_was_not_allowed_is_refused() -> None:
    guide = build_guide(Constraint("regex", "ab"), BYTES)
    assert guide is not None
    with pytest.raises(InputError, match="token 120 does not continue"):
        guide.accept(ord("x"))


def test_tokenizers_that_tell_too_little_are_refused() -> None:
    class Mute:
        vocab_size, eos_id = 3, 2

    class Endless(ByteTokenizer):
        eos_id = None  # type: ignore[assignment]

    with pytest.raises(InputError, match=r"a Mute has no vocabulary\(\)"):
        build_guide(Constraint("json"), Mute())
    with pytest.raises(InputError, match="no end of text"):
        build_guide(Constraint("json"), Endless())


def test_without_a_constraint_nothing_is_needed() -> None:
    assert build_guide(None, object()) is None


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def blocked(name: str, *more: Any) -> Any:
        if name == "llguidance":
            raise ImportError(name)
        return found(name, *more)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(MissingExtraError, match=r"open-mythos\[constrain\]"):
        build_guide(Constraint("json"), BYTES)


def test_guides_of_one_constraint_go_their_own_ways() -> None:
    constraint = Constraint("regex", "ab|cd")
    first, second = build_guide(constraint, BYTES), build_guide(constraint, BYTES)
    assert first is not None
    assert second is not None
    first.accept(ord("a"))
    assert allowed(first, BYTES.vocab_size) == [ord("b")]
    assert allowed(second, BYTES.vocab_size) == [ord("a"), ord("c")]
    third = build_guide(constraint, BYTES)
    assert third is not None
    assert allowed(third, BYTES.vocab_size) == [ord("a"), ord("c")]


def test_grammars_are_kept_up_to_a_number() -> None:
    for i in range(2 * constrain.MOST_KEPT):
        build_guide(Constraint("regex", f"x{i}"), BYTES)
    assert 0 < len(constrain._MADE[BYTES]) <= constrain.MOST_KEPT
