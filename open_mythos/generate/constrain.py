"""Constrained text: which tokens may come next, so that a text has the form that was asked for.

The grammars are llguidance's (docs/decisions/0014-constrained-text.md); here are its tokenizer,
made once for each of ours, and its mask as `rows.choose` takes it.
"""

import json
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from open_mythos.errors import InputError, MissingExtraError
from open_mythos.generate.params import Constraint


if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer


# Between tokens of JSON no space is needed, and a weak model that may write spaces ends in them;
# a schema that says so in "x-guidance" is written more loosely.
JSON_STYLE = {"whitespace_flexible": False}
ANY_OBJECT = json.dumps({"type": "object"})


@runtime_checkable
class Vocabulary(Protocol):
    """What a grammar needs of a tokenizer: the bytes that each id stands for."""

    @property
    def vocab_size(self) -> int:
        """Every id is below it."""
        ...

    @property
    def eos_id(self) -> int | None:
        """Id that ends a text, or None."""
        ...

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the special tokens by their spelling."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of the text, with nothing added."""
        ...

    def vocabulary(self) -> str | list[bytes]:
        """The JSON text of a `tokenizers` file, or the bytes of every id."""
        ...


class GrammarGuide:
    """The state of one text in its grammar."""

    def __init__(self, matcher: "LLMatcher") -> None:
        """Follow a matcher from where it is."""
        self._matcher = matcher

    def allowed(self) -> Tensor:
        """Packed int32 words on the host: what may come next, the end of text where it may end.

        Raises:
            InputError: If the grammar has grown beyond the library's limits.
        """
        words = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.int32)
        self._check()
        return words

    def accept(self, token: int) -> None:
        """Go on behind a token.

        Raises:
            InputError: If it was not allowed.
        """
        if not self._matcher.consume_token(token):
            raise InputError(f"token {token} does not continue the text in its form; ask `allowed`")

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InputError(f"the constraint failed: {_first(self._matcher.get_error())}")


def build_guide(constraint: Constraint | None, tokenizer: object) -> GrammarGuide | None:
    """The guide of one text; None without a constraint.

    Args:
        constraint: The form of the text.
        tokenizer: One that tells its `vocabulary`; all of `open_mythos.data` do.

    Raises:
        InputError: If the constraint is no grammar, or the tokenizer tells too little.
        MissingExtraError: Without llguidance.
    """
    if constraint is None:
        return None
    known = _tokenizer(tokenizer)
    kept = _MADE.setdefault(tokenizer, {})
    made = kept.get(constraint)
    if made is None:
        made = _matcher(known, constraint)
        if len(kept) >= MOST_KEPT:
            kept.clear()
        kept[constraint] = made
    return GrammarGuide(made.deep_copy())


def _matcher(tokenizer: "LLTokenizer", constraint: Constraint) -> "LLMatcher":
    """At the beginning of a text."""
    from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415 -- an extra

    terse = LLParserLimits(verbose_errors=False)
    matcher = LLMatcher(tokenizer, _grammar(constraint), log_level=0, limits=terse)
    if matcher.is_error():
        reason = _first(matcher.get_error())
        raise InputError(f"the constraint is no {constraint.kind} that can be followed: {reason}")
    return matcher


def _grammar(constraint: Constraint) -> str:
    from llguidance import LLMatcher  # noqa: PLC0415 -- an extra

    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(constraint.source)
    if constraint.kind == "lark":
        return LLMatcher.grammar_from_lark(constraint.source)
    source = constraint.source if constraint.kind == "json_schema" else ANY_OBJECT
    try:
        json.loads(source)
    except ValueError as error:
        raise InputError(f"the schema of the constraint is no JSON: {error}") from error
    return LLMatcher.grammar_from_json_schema(source, defaults=JSON_STYLE)  # type: ignore[arg-type]


# Grammars that were read lately: a large schema takes a tenth of a second, its copy nothing, and
# each continuation of a request needs one.
MOST_KEPT = 32
_MADE: "WeakKeyDictionary[object, dict[Constraint, LLMatcher]]" = WeakKeyDictionary()
_KNOWN: "WeakKeyDictionary[object, LLTokenizer]" = WeakKeyDictionary()


def _tokenizer(tokenizer: object) -> "LLTokenizer":
    """The library's own form of a tokenizer, which takes a second for a large vocabulary."""
    try:
        from llguidance import LLTokenizer, TokenizerWrapper  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise MissingExtraError("llguidance", "constrain", "a constraint on the text") from error
    if not isinstance(tokenizer, Vocabulary):
        raise InputError(
            f"a constraint needs the bytes of every token, and a {type(tokenizer).__name__} has no "
            "vocabulary(); take a tokenizer of open_mythos.data"
        )
    if tokenizer.eos_id is None:
        raise InputError("a constrained text ends, but the tokenizer has no end of text")
    if tokenizer not in _KNOWN:
        told = tokenizer.vocabulary()
        made = told if isinstance(told, str) else TokenizerWrapper(_Table(tokenizer, told))
        size = tokenizer.vocab_size
        _KNOWN[tokenizer] = LLTokenizer(made, n_vocab=size, eos_token=tokenizer.eos_id)
    return _KNOWN[tokenizer]


class _Table:
    """A tokenizer as the library asks for one."""

    def __init__(self, tokenizer: Vocabulary, tokens: list[bytes]) -> None:
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = None
        self.tokens = tokens
        self.special_token_ids = sorted(tokenizer.special_tokens.values())
        self._encode = tokenizer.encode

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode("utf-8"))


def _first(message: str) -> str:
    """The first line of an error: what follows it is the parser's state."""
    return message.strip().split("\n", 1)[0] or "no reason given"
