"""Batched likelihoods are those of one row at a time, token by token."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.data.bpe_tokenizer import BPETokenizer
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.errors import InputError
from open_mythos.eval.likelihood import Likelihood, encode_pair, likelihoods, rolling
from open_mythos.model.mythos import OpenMythos


class Endless(ByteTokenizer):
    """Without an end of text."""

    @property
    def eos_id(self) -> Any:
        return None


def slowly(model: Any, context: list[int], asked: list[int], **how: Any) -> tuple[float, int]:
    """One pass per token, each over the last positions that the model reads."""
    total, hits, known = 0.0, 0, list(context)
    for token in asked:
        logits = model(torch.tensor([known[-model.cfg.max_seq_len :]]), **how)[0, -1]
        total += float(logits.double().log_softmax(-1)[token])
        hits += int(logits.argmax()) == token
        known.append(token)
    return total, hits


@pytest.mark.parametrize("how", [{}, {"n_loops": 2}, {"n_loops": 3, "exit": "fixed:1"}])
@torch.no_grad()
def test_a_batch_says_what_single_tokens_say(
    any_config: Any, randomised: Any, how: dict[str, Any]
) -> None:
    model = randomised(OpenMythos(any_config)).eval()
    sizes = [(1, 1), (3, 2), (1, 5), (4, 4), (2, 1)]
    pairs = [(torch.randint(37, (a,)).tolist(), torch.randint(37, (b,)).tolist()) for a, b in sizes]
    for found, (context, asked) in zip(
        likelihoods(model, pairs, positions=12, **how), pairs, strict=True
    ):
        logprob, hits = slowly(model, context, asked, **how)
        assert found.logprob == pytest.approx(logprob, abs=1e-4)
        assert (found.hits, found.count) == (hits, len(asked))
        assert found.greedy == (hits == len(asked))


def test_a_context_is_cut_on_the_left_and_the_mode_restored(
    tiny_config: Any, randomised: Any
) -> None:
    model = randomised(OpenMythos(tiny_config(max_seq_len=8))).train()
    context, asked = torch.randint(37, (20,)).tolist(), torch.randint(37, (3,)).tolist()
    long, short = likelihoods(model, [(context, asked), (context[-6:], asked)])
    assert long.logprob == pytest.approx(short.logprob, abs=1e-5)
    assert model.training
    whole = likelihoods(model, [(context, torch.randint(37, (8,)).tolist())])
    assert whole[0].count == 8


def test_greedy_is_what_decoding_says(tiny_config: Any, randomised: Any) -> None:
    model = randomised(OpenMythos(tiny_config())).eval()
    ids = torch.randint(37, (1, 4))
    said = model.generate(ids, 3, 2, 0.0)[0, 4:].tolist()
    other = [said[0], said[1], (said[2] + 1) % 37]
    found = likelihoods(model, [(ids[0].tolist(), said), (ids[0].tolist(), other)], 2)
    assert [one.greedy for one in found] == [True, False]


@pytest.mark.parametrize(
    ("pair", "said"),
    [(([], [1]), "0 tokens"), (([1], []), "at least one"), (([1], [2] * 33), "33 tokens")],
)
def test_what_cannot_be_asked_is_refused(tiny_config: Any, pair: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        likelihoods(OpenMythos(tiny_config()), [pair])


@given(ids=st.lists(st.integers(0, 9), min_size=1, max_size=40), length=st.integers(1, 12))
def test_rolling_asks_each_token_once_with_all_the_context_that_fits(
    ids: list[int], length: int
) -> None:
    pairs = list(rolling(ids, 99, length))
    assert [token for _, asked in pairs for token in asked] == ids
    known, at = [99, *ids], 1
    for context, asked in pairs:
        size = len(context) + len(asked)
        assert known[at - len(context) : at + len(asked)] == context + asked
        at += len(asked)
        assert size == min(length + 1, at) or size == length + 1
        assert size <= length + 1
        assert context


def test_pairs_are_cut_where_the_contexts_ids_end_and_spaces_go_on() -> None:
    plays, eos = BPETokenizer.plays(), BPETokenizer.plays().eos_id
    for context, continuation in (("To be", " or not"), ("To be ", "or not"), ("a\n", "b")):
        before, after = encode_pair(plays, context, continuation)
        assert plays.decode(before) == context.rstrip()
        assert plays.decode(before + after) == context + continuation
    assert encode_pair(plays, "", "to") == ([eos], plays.encode("to"))
    assert encode_pair(plays, " ", "to") == ([eos], plays.encode(" to"))
    with pytest.raises(InputError, match="end of text"):
        encode_pair(Endless(), "", "to")


def test_the_sum_over_all_continuations_is_one(tiny_config: Any, randomised: Any) -> None:
    model = randomised(OpenMythos(tiny_config(vocab_size=5))).eval()
    pairs = [([1, 2], [a, b]) for a in range(5) for b in range(5)]
    found = likelihoods(model, pairs)
    assert math.fsum(math.exp(one.logprob) for one in found) == pytest.approx(1.0, abs=1e-5)
    assert Likelihood(-1.0, 1, 2).greedy is False
