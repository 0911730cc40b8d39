"""Drafts change nothing but the time: tokens against plain ones, draws against probabilities."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.generate import speculate
from open_mythos.generate.continuation import Ask, Continuations, Token
from open_mythos.generate.noise import Purpose, exponentials
from open_mythos.generate.params import Constraint, SamplingParams
from open_mythos.generate.rows import Row
from open_mythos.generate.speculate import Draft, Speculation, judged
from open_mythos.model.mythos import OpenMythos


Build = Callable[..., Any]
LOOPS = 4
GREEDY = SamplingParams(temperature=0.0, max_tokens=14)
RICH = SamplingParams(
    0.8, 20, 0.95, repetition_penalty=1.2, frequency_penalty=0.3, presence_penalty=0.2,
    logit_bias={3: 2.0}, min_tokens=4, max_tokens=14, seed=5, logprobs=2,
)  # fmt: skip


@pytest.fixture
def build(tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]) -> Build:
    def make(**changes: Any) -> Any:
        cfg = tiny_config(**{"readout": "last", **changes})
        return randomised(OpenMythos(cfg)).double().eval()

    return make


def plain(model: Any, ask: Ask) -> list[Token]:
    batch, line = Continuations(model, [ask], n_loops=LOOPS), []
    while batch.going:
        (token,) = batch.step()
        assert token is not None
        line.append(token)
    return line


def rounds(model: Any, ask: Ask, draft: Draft) -> tuple[list[list[Token]], speculate.Tally]:
    text, found = Speculation(model, ask, draft, n_loops=LOOPS), []
    while text.going:
        found.append(text.step())
    return found, text.tally


def tokens(found: list[list[Token]]) -> list[Token]:
    return [token for several in found for token in several]


@pytest.mark.parametrize("rule", ["coupled", "rejection"])
@pytest.mark.parametrize("kv", ["per_loop", "first"])
def test_greedy_text_is_the_plain_one(build: Build, attn_type: str, kv: str, rule: Any) -> None:
    model = build(attn_type=attn_type, kv=kv)
    for length, loops, count in ((1, 1, 3), (6, 3, 1), (4, 2, 20)):
        prompt = torch.randint(0, 37, (length,)).tolist()
        free = plain(model, Ask(prompt, GREEDY, 0))
        for eos in (None, free[6].token):
            ask = Ask(prompt, GREEDY, 0, eos_id=eos)
            found, tally = rounds(model, ask, Draft(loops, count, rule))
            assert tokens(found) == (free if eos is None else plain(model, ask))
            assert all(1 <= len(several) <= count + 1 for several in found)
            assert tally.rounds == len(found)
            assert tally.written == len(tokens(found))
            assert tally.kept <= tally.drafted <= count * tally.rounds


def test_coupled_text_of_a_seed_is_the_plain_one(build: Build) -> None:
    """Penalties, bias, reports and all."""
    model, prompt = build(), torch.randint(0, 37, (5,)).tolist()
    kept = 0
    for index in range(4):
        ask = Ask(prompt, RICH, 5, index, eos_id=1)
        found, tally = rounds(model, ask, Draft(2, 3))
        for token, want in zip(tokens(found), plain(model, ask), strict=True):
            assert (token.token, token.finish, token.loops) == (want.token, want.finish, LOOPS)
            assert token.logprobs is not None
            assert want.logprobs is not None
            assert token.logprobs.logprob == pytest.approx(want.logprobs.logprob)
            assert [i for i, _ in token.logprobs.top] == [i for i, _ in want.logprobs.top]
        kept += tally.kept
    assert kept > 0


# -- distributions ---------------------------------------------------------------------------------


def skewed(vocab: int, sharpness: float) -> Tensor:
    return (torch.randn(1, vocab).double() * sharpness).softmax(-1)


def chi_square(counts: Tensor, expected: Tensor) -> float:
    """The p-value of Pearson's test, rare cells put together."""
    order = expected.argsort()
    counts, expected = counts[order].double(), expected[order]
    few = int((expected.cumsum(0) < 5.0).sum()) + 1
    seen = torch.cat((counts[:few].sum().view(1), counts[few:]))
    want = torch.cat((expected[:few].sum().view(1), expected[few:]))
    return float(
        stats.chisquare(seen.numpy(), want.numpy() * float(seen.sum() / want.sum())).pvalue
    )


@pytest.mark.parametrize("lossy", [False, True])
def test_what_remains_of_a_draft_is_distributed_as_the_whole_model_says(lossy: bool) -> None:
    """20,000 draws; a variant that keeps a token with p / q, but redraws from p, is found out."""
    n, vocab = 20_000, 6
    p, q = skewed(vocab, 1.0), skewed(vocab, 1.0)
    rows = [Row(SamplingParams(), seed) for seed in range(n)]
    wide_p, wide_q = (t.float().expand(n, -1) for t in (p, q))
    chosen = (wide_q / exponentials([r.key for r in rows], vocab, "cpu", Purpose.DRAFT)).argmax(-1)
    accepted, instead = judged(wide_p, wide_q, chosen, rows)
    if lossy:
        instead = (wide_p / exponentials([r.key for r in rows], vocab)).argmax(-1)
    text = torch.where(accepted, chosen, instead)
    overlap = torch.minimum(p, q).sum()
    assert float(accepted.double().mean()) == pytest.approx(float(overlap), abs=0.015)
    value = chi_square(text.bincount(minlength=vocab), n * p[0])
    assert value < 1e-6 if lossy else value > 1e-3


@torch.no_grad()
def joint(model: Any, prompt: list[int], vocab: int) -> Tensor:
    """Exact probabilities (vocab * vocab,) of the next two tokens, from uncached passes."""
    first = model(torch.tensor([prompt]), LOOPS)[0, -1].softmax(-1)
    twice = torch.tensor([[*prompt, t] for t in range(vocab)])
    second = model(twice, LOOPS)[:, -1].softmax(-1)
    return (first.unsqueeze(-1) * second).flatten()


@torch.no_grad()
def at_odds(model: Any, vocab: int) -> list[int]:
    """The prompt after which one loop and all of them differ most, clearly so."""
    prompts = torch.cartesian_prod(*[torch.arange(vocab)] * 3)
    model.norm.weight.mul_(1.5 / model(prompts, LOOPS)[:, -1].std())
    few, whole = (model(prompts, loops)[:, -1].softmax(-1) for loops in (1, LOOPS))
    apart = (few - whole).abs().sum(-1) / 2
    assert float(apart.max()) > 0.3
    return [int(token) for token in prompts[apart.argmax()]]


@pytest.mark.parametrize("lossy", [False, True])
def test_texts_are_distributed_as_without_a_draft(
    build: Build, monkeypatch: pytest.MonkeyPatch, lossy: bool
) -> None:
    """A variant that keeps whatever was drafted is found out."""
    vocab, n, model = 4, 70, build(vocab_size=4, injection="concat_linear")
    prompt = at_odds(model, vocab)
    if lossy:
        real = speculate.judged

        def keeping(p: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
            accepted, instead = real(p, *rest)
            return torch.ones_like(accepted), instead

        monkeypatch.setattr(speculate, "judged", keeping)
    counts = torch.zeros(vocab * vocab)
    for seed in range(n):
        ask = Ask(prompt, SamplingParams(max_tokens=3), seed)
        text = Speculation(model, ask, Draft(1, 2, "rejection"), n_loops=LOOPS)
        said: list[int] = []
        while len(said) < 2:
            said += [t.token for t in text.step()]
        counts[said[0] * vocab + said[1]] += 1
    value = chi_square(counts, n * joint(model, prompt, vocab))
    assert value < 1e-4 if lossy else value > 1e-3


# -- refusals --------------------------------------------------------------------------------------


def cases() -> Iterator[tuple[dict[str, Any], str]]:
    yield {"loops": 0}, "draft loops is 0"
    yield {"tokens": 2.0}, r"draft tokens is 2\.0"
    yield {"rule": "couplet"}, "'couplet'; did you mean 'coupled'"


@pytest.mark.parametrize(("given", "message"), list(cases()), ids=str)
def test_drafts_that_mean_nothing_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Draft(**given)


def test_what_speculation_cannot_answer_is_refused(build: Build) -> None:
    model = build()
    form = SamplingParams(constraint=Constraint("json"))
    with pytest.raises(InputError, match="follows one text and no draft"):
        Speculation(model, Ask([1], form, 0), Draft())
    with pytest.raises(InputError, match="max_output_tokens"):
        Speculation(model, Ask([1], SamplingParams(max_tokens=99), 0), Draft())
    with pytest.raises(InputError, match="readout is 'act'"):
        Speculation(build(readout="act"), Ask([1], GREEDY, 0), Draft())
    done = Speculation(model, Ask([1], SamplingParams(max_tokens=0), 0), Draft())
    assert not done.going
    with pytest.raises(InputError, match="the text has ended"):
        done.step()
