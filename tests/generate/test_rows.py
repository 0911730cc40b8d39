"""Rows against a definition in plain Python, one row at a time; draws against their company."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from open_mythos.errors import InputError
from open_mythos.generate.noise import exponentials, words
from open_mythos.generate.params import SamplingParams
from open_mythos.generate.rows import Row, choose, filtered, probabilities, shaped, unpack
from open_mythos.ops.sample import sample_plain


VOCAB = 11
INF = math.inf


def packed(allowed: set[int]) -> Tensor:
    """One word is enough for the vocabulary."""
    return torch.tensor([sum(1 << t for t in allowed)], dtype=torch.int32)


def plain_shaped(logits: list[float], row: Row) -> list[float]:
    """What the documentation says, in its order."""
    p, x = row.params, list(logits)
    for t in range(len(x)):
        if t in set(row.prompt) | set(row.output):
            x[t] = x[t] / p.repetition_penalty if x[t] > 0 else x[t] * p.repetition_penalty
        times = list(row.output).count(t)
        x[t] -= p.frequency_penalty * times
        x[t] -= p.presence_penalty * (times > 0)
        x[t] += p.logit_bias.get(t, 0.0)
        if row.allowed is not None and not (int(row.allowed[0]) >> t) & 1:
            x[t] = -INF
    early = len(row.output) < p.min_tokens
    held = [-INF if early and t in row.ends else v for t, v in enumerate(x)]
    return held if max(held) > -INF else x


def plain_filtered(x: list[float], p: SamplingParams) -> tuple[list[float], float]:
    """One filter after the other, each on what the one before left; and how near one was to not.

    The latter is the least distance of a number that decides from where it would decide otherwise.
    """
    best, margins = max(x), [INF]
    x = [(v - best) / p.temperature for v in x]
    if p.top_k and p.top_k < len(x):
        *_, kth, after = sorted(x, reverse=True)[: p.top_k + 1]
        margins += [kth - after] if kth > -INF else []
        x = [v if v >= kth else -INF for v in x]
    if p.top_p < 1.0:
        total = sum(map(math.exp, x))
        reached, kept = 0.0, set()
        for t in sorted(range(len(x)), key=lambda t: -x[t]):
            margins += [abs(reached - p.top_p)] if x[t] > -INF else []
            if reached < p.top_p:
                kept.add(t)
            reached += math.exp(x[t]) / total
        x = [v if t in kept else -INF for t, v in enumerate(x)]
    if p.min_p > 0.0:
        margins += [abs(v - math.log(p.min_p)) for v in x if v]  # the best stays by itself
        x = [v if v >= math.log(p.min_p) else -INF for v in x]
    return x, min(margins)


def won(rate: Tensor, clocks: Tensor, *tokens: int) -> bool:
    """Whether these tokens come first, or together but for the last bits of a float32."""
    race = rate.double() / clocks.double()
    return all(float(race[token]) >= float(race.max()) * (1 - 1e-6) for token in tokens)


tokens = st.integers(0, VOCAB - 1)
temperatures = st.sampled_from([0.0, 0.3, 1.0, 2.5])


@st.composite
def requests(draw: st.DrawFn, plain: bool = False) -> Row:
    """Requests that ask for anything, or for temperature and filters alone."""
    sampling: dict[str, Any] = {
        "temperature": draw(temperatures),
        "top_k": draw(st.integers(0, VOCAB + 2)),
        "top_p": draw(st.sampled_from([1.0, 0.3, 0.75, 0.999])),
        "min_p": draw(st.sampled_from([0.0, 0.05, 0.6, 1.0])),
    }
    if not plain:
        sampling |= {
            "repetition_penalty": draw(st.sampled_from([1.0, 1.3, 0.7])),
            "presence_penalty": draw(st.sampled_from([0.0, 0.9, -1.5])),
            "frequency_penalty": draw(st.sampled_from([0.0, 0.4, -0.7])),
            "logit_bias": draw(st.dictionaries(tokens, st.sampled_from([2.5, -3.0, -INF]))),
            "min_tokens": draw(st.integers(0, 4)),
        }
        if len(sampling["logit_bias"]) == VOCAB:
            sampling["logit_bias"].popitem()  # one token stays, whatever is forbidden
    some = st.lists(tokens, max_size=5)
    allowed = None
    if not plain and draw(st.booleans()):
        forbidden = {t for t, b in sampling["logit_bias"].items() if b == -INF}
        allowed = packed(draw(st.sets(tokens)) | {min(set(range(VOCAB)) - forbidden)})
    return Row(
        SamplingParams(**sampling),
        seed=draw(st.integers(-5, 5)),
        index=draw(st.integers(0, 2)),
        prompt=draw(some),
        output=draw(some),
        ends=tuple(draw(st.sets(tokens, max_size=2))),
        allowed=allowed,
    )


@given(rows=st.lists(requests(), min_size=1, max_size=5))
def test_rows_are_shaped_and_filtered_as_each_says(rows: list[Row]) -> None:
    logits = torch.randn(len(rows), VOCAB, dtype=torch.float64) * 3
    asked = shaped(logits, rows)
    kept = filtered(asked, rows)
    for i, row in enumerate(rows):
        want = plain_shaped(logits[i].tolist(), row)
        assert asked[i].tolist() == pytest.approx(want, abs=1e-12)
        if row.params.temperature:
            want, margin = plain_filtered(want, row.params)
            if margin > 2e-5:  # filters are float32, of logits of up to 80 by temperature
                assert kept[i].tolist() == pytest.approx(want, rel=1e-6, abs=1e-5)


@given(rows=st.lists(requests(), min_size=1, max_size=5))
def test_a_rows_token_does_not_depend_on_its_company(rows: list[Row]) -> None:
    logits = torch.randn(len(rows), VOCAB) * 3
    together = choose(logits, rows)
    assert (together.shape, together.dtype) == ((len(rows),), torch.int64)
    alone = [int(choose(logits[i : i + 1], [row])) for i, row in enumerate(rows)]
    assert together.tolist() == alone
    backwards = choose(logits.flip(0), rows[::-1])
    assert backwards.flip(0).tolist() == alone


@given(row=requests(), seeds=st.lists(st.integers(0, 10**9), min_size=1, max_size=4))
def test_the_token_is_the_first_of_clocks_at_the_rates_of_its_probabilities(
    row: Row, seeds: list[int]
) -> None:
    logits = torch.randn(1, VOCAB) * 3
    rate = probabilities(logits, [row])[0]
    assert float(rate.double().sum()) == pytest.approx(1.0)
    for seed in seeds:
        now = Row(row.params, seed, row.index, row.prompt, row.output, row.ends, row.allowed)
        clocks = exponentials([now.key], VOCAB)[0]
        assert won(rate, clocks, int(choose(logits, [now])))


@given(rows=st.lists(requests(plain=True), min_size=2, max_size=4))
def test_plain_rows_draw_as_sampling_does_with_the_same_noise(rows: list[Row]) -> None:
    logits = torch.randn(len(rows), VOCAB) * 3
    got = choose(logits, rows)
    for i, row in enumerate(rows):
        s, one = row.params.sampling, logits[i : i + 1]
        noise = exponentials([row.key], VOCAB)
        want = sample_plain(one, noise, s.temperature, s.top_k, s.top_p, s.min_p)
        want = want if s.temperature else one.argmax()
        assert won(probabilities(one, [row])[0], noise[0], int(got[i]), int(want))


def test_greedy_rows_of_float64_are_not_decided_in_float32() -> None:
    logits = torch.zeros(2, VOCAB, dtype=torch.float64)
    logits[:, 7] = 1e-12
    greedy = SamplingParams(temperature=0.0)
    biased = SamplingParams(temperature=0.0, logit_bias={3: 1e-13})
    assert choose(logits, [Row(greedy, 0), Row(biased, 0)]).tolist() == [7, 7]


def test_an_end_that_alone_is_allowed_comes_early() -> None:
    params = SamplingParams(temperature=0.0, min_tokens=3)
    row = Row(params, 0, ends=(4,), allowed=packed({4}))
    assert int(choose(torch.randn(1, VOCAB), [row])) == 4
    free = Row(params, 0, ends=(4,), allowed=packed({4, 9}))
    assert int(choose(torch.randn(1, VOCAB), [free])) == 9


def test_the_logits_are_left_alone() -> None:
    logits = torch.randn(1, VOCAB, dtype=torch.float64)
    before = logits.clone()
    params = SamplingParams(logit_bias={1: -INF}, repetition_penalty=2.0, min_tokens=2)
    choose(logits, [Row(params, 1, prompt=[2, 3], output=[4], ends=(5,))])
    assert torch.equal(logits, before)


@given(bits=st.lists(st.booleans(), min_size=1, max_size=100), count=st.integers(1, 120))
def test_packed_words_hold_one_bit_per_token_from_the_lowest(bits: list[bool], count: int) -> None:
    words = [0] * math.ceil(len(bits) / 32)
    for t, bit in enumerate(bits):
        words[t // 32] |= int(bit) << (t % 32)
    signed = [w - 2**32 if w >= 2**31 else w for w in words]
    got = unpack(torch.tensor([signed], dtype=torch.int32), count)[0].tolist()
    assert got == [t < len(bits) and bits[t] for t in range(count)]


def test_rows_and_logits_must_be_as_many() -> None:
    with pytest.raises(InputError, match=r"1 rows ask for tokens of logits \(2, 11\)"):
        choose(torch.zeros(2, VOCAB), [Row(SamplingParams(), 0)])


def test_penalties_and_filters_are_those_of_hugging_face() -> None:
    transformers = pytest.importorskip("transformers")
    logits = torch.randn(2, VOCAB) * 3
    prompt, output = [1, 2, 2, 5], [7, 7, 2]
    row = Row(SamplingParams(0.7, 8, 0.9, 0.02, 1.4), 0, 0, prompt, output)
    ids = torch.tensor([prompt + output] * 2)
    want = logits
    for processor in (
        transformers.RepetitionPenaltyLogitsProcessor(1.4),
        transformers.TemperatureLogitsWarper(0.7),
        transformers.TopKLogitsWarper(8),
        transformers.TopPLogitsWarper(0.9),
        transformers.MinPLogitsWarper(0.02),
    ):
        want = processor(ids, want)
    torch.testing.assert_close(probabilities(logits, [row, row]), want.softmax(-1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@given(rows=st.lists(requests(), min_size=1, max_size=5))
def test_a_device_chooses_what_the_host_chooses(rows: list[Row]) -> None:
    """Bits of noise are equal; of the probabilities the last may differ, which hardly decides."""
    logits = torch.randn(len(rows), VOCAB, dtype=torch.float64) * 3
    assert choose(logits.cuda(), rows).tolist() == choose(logits, rows).tolist()
    keys = [row.key for row in rows]
    assert torch.equal(words(keys, 50, "cuda").cpu(), words(keys, 50))
