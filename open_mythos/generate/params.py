"""SamplingParams: everything that one request may ask of its continuation, checked when made."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, get_args

from open_mythos.errors import InputError, did_you_mean
from open_mythos.generate.sampling import Sampling


ConstraintKind = Literal["json", "json_schema", "regex", "lark"]
CONSTRAINT_KINDS: tuple[str, ...] = get_args(ConstraintKind)
MOST_PENALTY = 2.0  # of presence and frequency, either way, as in OpenAI's interface


@dataclass(frozen=True)
class Constraint:
    """The form that a text must have, as data; `generate/constrain.py` makes a mask of it.

    Attributes:
        kind: "json" (any JSON object), "json_schema", "regex" or "lark" (a grammar).
        source: The schema as JSON text, the expression or the grammar; nothing for "json".
    """

    kind: ConstraintKind
    source: str = ""

    def __post_init__(self) -> None:
        if self.kind not in CONSTRAINT_KINDS:
            hint = did_you_mean(str(self.kind), CONSTRAINT_KINDS)
            raise InputError(f"constraint kind is {self.kind!r}; {hint}")
        if not isinstance(self.source, str):
            raise InputError(
                f"constraint source is {self.source!r}; it must be a str (a schema as JSON text)"
            )
        if not self.source and self.kind != "json":
            raise InputError(f"a constraint of kind {self.kind!r} needs a source; it is empty")


@dataclass(frozen=True)
class SamplingParams:
    """What one request asks for; names and meanings as users of vLLM and Hugging Face know them.

    Tokens are chosen in this order: repetition, frequency and presence penalty, bias, what is
    forbidden (ends before `min_tokens`, `constraint`), then as `Sampling` says: temperature,
    top-k, top-p, min-p.

    Attributes:
        temperature: Divides the logits; 0 takes the largest.
        top_k: Keep the k largest logits; 0 keeps all.
        top_p: Keep the fewest tokens whose probabilities reach this; 1 keeps all.
        min_p: Keep tokens at least this likely, relative to the likeliest; 0 keeps all.
        repetition_penalty: Divides positive and multiplies negative logits of tokens that stand in
            prompt or output; positive, 1 is none, above 1 discourages.
        presence_penalty: Taken from the logits of tokens that stand in the output; in [-2, 2].
        frequency_penalty: The same for each time that they stand there.
        logit_bias: Token id -> what is added to its logit; -inf forbids it.
        seed: Fixes the draws, whatever runs beside this request; None: drawn anew each time.
        n: Continuations of the prompt, each with draws of its own.
        max_tokens: Tokens to add at most; None: as many as there is room for.
        min_tokens: Tokens before which nothing ends the text.
        stop: Texts that end it and are not shown; one str stands for a tuple of one.
        stop_token_ids: Tokens that end it, beside the tokenizer's end of text.
        ignore_eos: Whether the end of text is a token like others.
        logprobs: Report the log-probability of each token under the unmodified softmax, and of so
            many likeliest alternatives; None: report none.
        constraint: The form that the text must have.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    # A copy is kept, as a plain dict; left out of the hash, which a dict has none of.
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | None = None
    n: int = 1
    max_tokens: int | None = 64
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        _ = self.sampling  # checks its four fields
        self._check_penalties()
        self._check_counts()
        object.__setattr__(self, "logit_bias", _bias(self.logit_bias))
        object.__setattr__(self, "stop", _stop(self.stop))
        object.__setattr__(self, "stop_token_ids", _token_ids(self.stop_token_ids))
        if not isinstance(self.ignore_eos, bool):
            raise InputError(f"ignore_eos is {self.ignore_eos!r}; it is True or False")
        if self.constraint is not None and not isinstance(self.constraint, Constraint):
            raise InputError(
                f"constraint is {self.constraint!r}; it must be a Constraint(kind, source) or None"
            )
        if self.constraint is not None and self.ignore_eos:
            raise InputError(
                "ignore_eos is True beside a constraint, whose text ends with the end of text; "
                "drop one"
            )

    @cached_property  # asked for by every row at every token
    def sampling(self) -> Sampling:
        """The part that needs nothing but the logits: temperature and the filters."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p)

    @cached_property
    def penalised(self) -> bool:
        """Whether the tokens of prompt and output change the logits."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )

    @property
    def plain(self) -> bool:
        """Whether a token follows from `sampling` and the logits alone, with nothing to report."""
        return (
            not self.penalised
            and not self.logit_bias
            and not self.min_tokens
            and self.logprobs is None
            and self.constraint is None
        )

    def ends(self, eos_id: int | None) -> tuple[int, ...]:
        """Tokens that end the text, in order, each once.

        Args:
            eos_id: The tokenizer's end of text, if it has one.
        """
        own = () if eos_id is None or self.ignore_eos else (eos_id,)
        return tuple(sorted({*own, *self.stop_token_ids}))

    def check_vocab(self, vocab_size: int) -> None:
        """Refuse token ids that a model of this vocabulary does not have.

        Raises:
            InputError: Naming the field and the id.
        """
        for name, ids in (("logit_bias", self.logit_bias), ("stop_token_ids", self.stop_token_ids)):
            for i in ids:
                if i >= vocab_size:
                    raise InputError(
                        f"{name} names token {i}; the model's tokens are 0 .. {vocab_size - 1}"
                    )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SamplingParams":
        """Build from plain values.

        Raises:
            InputError: On an unknown name (with the closest known one) or a value out of range.
        """
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise InputError(f"there is no sampling parameter {name!r}; "
                                 f"{did_you_mean(name, known)}")  # fmt: skip
        return cls(**values)

    def _check_penalties(self) -> None:
        for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
            if not _is_number(getattr(self, name)):
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be a finite number")
        if self.repetition_penalty <= 0.0:
            raise InputError(
                f"repetition_penalty is {self.repetition_penalty}; it must be > 0 (1 is none)"
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if not -MOST_PENALTY <= getattr(self, name) <= MOST_PENALTY:
                raise InputError(
                    f"{name} is {getattr(self, name)}; it must lie in [-2, 2] (0 is none)"
                )

    def _check_counts(self) -> None:
        for name, least in (("n", 1), ("min_tokens", 0)):
            if not _is_int(getattr(self, name)) or getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be an int >= {least}")
        for name, unset in (("max_tokens", "as many as fit"), ("logprobs", "no report")):
            value = getattr(self, name)
            if value is not None and (not _is_int(value) or value < 0):
                raise InputError(f"{name} is {value!r}; it must be an int >= 0, or None: {unset}")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InputError(
                f"min_tokens is {self.min_tokens}, max_tokens {self.max_tokens}; "
                "lower the one or raise the other"
            )
        if self.seed is not None and not (_is_int(self.seed) and -(2**63) <= self.seed < 2**63):
            raise InputError(f"seed is {self.seed!r}; it must be an int of 64 bits, or None")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value)  # type: ignore[arg-type]


def _bias(given: object) -> dict[int, float]:
    if not isinstance(given, Mapping):
        raise InputError(f"logit_bias is {given!r}; it must map token ids to numbers")
    kept: dict[int, float] = {}
    for token, value in given.items():
        if not _is_int(token) or token < 0:
            raise InputError(f"logit_bias has the key {token!r}; keys are token ids, ints >= 0")
        if not _is_number(value) and value != -math.inf:
            raise InputError(f"logit_bias of token {token} is {value!r}; it must be a number, "
                             "or -inf to forbid the token")  # fmt: skip
        kept[token] = float(value)
    return kept


def _stop(given: object) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else given
    if not isinstance(texts, Iterable):
        raise InputError(f"stop is {given!r}; it must be a str or several")
    kept: list[str] = []
    for text in texts:
        if not isinstance(text, str) or not text:
            raise InputError(f"stop has {text!r}; each must be a str of at least one character")
        kept.append(text)
    return tuple(kept)


def _token_ids(given: object) -> tuple[int, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(f"stop_token_ids is {given!r}; it must be several token ids")
    kept: list[int] = []
    for token in given:
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise InputError(f"stop_token_ids has {token!r}; each must be an int >= 0")
        kept.append(token)
    return tuple(kept)
