"""What a request asks: refused with a way out where it means nothing, kept apart from its maker."""

import math
import re
from typing import Any

import pytest

from open_mythos.errors import InputError
from open_mythos.generate.params import Constraint, SamplingParams
from open_mythos.generate.sampling import Sampling


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -1.0}, r"temperature is -1\.0.*>= 0"),
    ({"top_k": 1.5}, r"top_k is 1\.5.*int"),
    ({"top_p": 0.0}, r"top_p is 0\.0.*\(0, 1\]"),
    ({"min_p": 2.0}, r"min_p is 2\.0.*\[0, 1\]"),
    ({"repetition_penalty": 0.0}, r"repetition_penalty is 0\.0.*> 0"),
    ({"repetition_penalty": math.inf}, r"repetition_penalty is inf.*finite"),
    ({"presence_penalty": 2.1}, r"presence_penalty is 2\.1.*\[-2, 2\]"),
    ({"frequency_penalty": -3}, r"frequency_penalty is -3.*\[-2, 2\]"),
    ({"frequency_penalty": True}, r"frequency_penalty is True.*number"),
    ({"logit_bias": {-1: 1.0}}, r"logit_bias has the key -1.*>= 0"),
    ({"logit_bias": {"5": 1.0}}, r"logit_bias has the key '5'.*ints"),
    ({"logit_bias": {5: math.nan}}, r"logit_bias of token 5 is nan.*number"),
    ({"logit_bias": {5: math.inf}}, r"logit_bias of token 5 is inf.*number"),
    ({"logit_bias": [1]}, r"logit_bias is \[1\].*map"),
    ({"seed": 2**63}, r"seed is 9223372036854775808.*64 bits"),
    ({"seed": 1.0}, r"seed is 1\.0.*int"),
    ({"n": 0}, r"n is 0.*>= 1"),
    ({"max_tokens": -1}, r"max_tokens is -1.*None"),
    ({"min_tokens": -1}, r"min_tokens is -1.*>= 0"),
    ({"min_tokens": 9, "max_tokens": 8}, r"min_tokens is 9, max_tokens 8.*lower"),
    ({"stop": 5}, r"stop is 5.*str"),
    ({"stop": ["a", ""]}, r"stop has ''.*at least one"),
    ({"stop_token_ids": [1, -2]}, r"stop_token_ids has -2.*>= 0"),
    ({"stop_token_ids": 3}, r"stop_token_ids is 3.*several"),
    ({"ignore_eos": 1}, r"ignore_eos is 1.*True or False"),
    ({"logprobs": -1}, r"logprobs is -1.*None"),
    ({"constraint": "json"}, r"constraint is 'json'.*Constraint\(kind"),
    ({"constraint": Constraint("json"), "ignore_eos": True}, r"ignore_eos.*drop one"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=str)
def test_what_means_nothing_is_refused_with_its_value_and_the_way_out(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SamplingParams(**given)


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("jsn", "", "kind is 'jsn'; did you mean 'json'"),
        ("regex", "", "'regex' needs a source"),
        ("json_schema", {"type": "object"}, "must be a str"),
    ],
)
def test_a_constraint_that_says_nothing_is_refused(kind: Any, source: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Constraint(kind, source)


def test_the_defaults_ask_for_nothing_beyond_a_plain_draw() -> None:
    params = SamplingParams()
    assert params.plain
    assert not params.penalised
    assert params.sampling == Sampling()


@pytest.mark.parametrize(
    ("more", "penalised"),
    [
        ({"repetition_penalty": 1.1}, True),
        ({"presence_penalty": -0.1}, True),
        ({"frequency_penalty": 0.1}, True),
        ({"logit_bias": {3: 1.0}}, False),
        ({"min_tokens": 1}, False),
        ({"logprobs": 0}, False),
        ({"constraint": Constraint("json")}, False),
    ],
    ids=str,
)
def test_whatever_needs_more_than_the_logits_is_not_plain(
    more: dict[str, Any], penalised: bool
) -> None:
    params = SamplingParams(**more)
    assert not params.plain
    assert params.penalised is penalised


def test_its_sampling_has_the_four_fields() -> None:
    params = SamplingParams(0.5, 4, 0.9, 0.1, seed=3)
    assert params.sampling == Sampling(0.5, 4, 0.9, 0.1)


def test_a_later_change_to_what_was_given_does_not_reach_it() -> None:
    bias, stop = {4: 1}, ["a"]
    params = SamplingParams(logit_bias=bias, stop=stop)  # type: ignore[arg-type]
    bias[5], stop[0] = 2, "b"
    assert params.logit_bias == {4: 1.0}
    assert params.stop == ("a",)


def test_one_text_stands_for_a_tuple_of_one() -> None:
    assert SamplingParams(stop="end").stop == ("end",)  # type: ignore[arg-type]


def test_equal_requests_are_equal_and_hash_alike() -> None:
    one, other = (SamplingParams(seed=1, logit_bias={1: 2.0}) for _ in range(2))
    assert one == other
    assert len({one, other, SamplingParams(seed=2)}) == 2


def test_ends_are_the_end_of_text_and_the_tokens_named() -> None:
    assert SamplingParams().ends(7) == (7,)
    assert SamplingParams().ends(None) == ()
    assert SamplingParams(stop_token_ids=(9, 3, 9)).ends(7) == (3, 7, 9)
    assert SamplingParams(stop_token_ids=(9,), ignore_eos=True).ends(7) == (9,)
    assert SamplingParams(stop_token_ids=(7,), ignore_eos=True).ends(7) == (7,)


@pytest.mark.parametrize("field", ["logit_bias", "stop_token_ids"])
def test_tokens_that_the_model_does_not_have_are_named(field: str) -> None:
    ids: Any = {30: 1.0} if field == "logit_bias" else (30,)
    params = SamplingParams(**{field: ids})
    params.check_vocab(31)
    with pytest.raises(InputError, match=rf"{field} names token 30.*0 \.\. 29"):
        params.check_vocab(30)


def test_plain_values_make_the_same_and_a_wrong_name_finds_the_right_one() -> None:
    made = SamplingParams.from_dict({"temperature": 0.5, "stop": ["x"]})
    assert made == SamplingParams(0.5, stop=("x",))
    with pytest.raises(InputError, match="'temprature'; did you mean 'temperature'"):
        SamplingParams.from_dict({"temprature": 1.0})
