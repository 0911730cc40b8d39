"""Continuations against plain generation and against uncached passes, alone and in company."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.generate.continuation import Ask, Continuations, Token
from open_mythos.generate.params import Constraint, SamplingParams
from open_mythos.generate.rows import Row, choose
from open_mythos.model.mythos import OpenMythos


Build = Callable[..., Any]
GREEDY = SamplingParams(temperature=0.0, max_tokens=6)


@pytest.fixture
def build(tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]) -> Build:
    """In float64, so that a tie between two tokens is decided in one way."""

    def make(**changes: Any) -> Any:
        return randomised(OpenMythos(tiny_config(**changes))).double().eval()

    return make


def prompts(*lengths: int) -> list[list[int]]:
    return [torch.randint(0, 37, (length,)).tolist() for length in lengths]


def run(model: Any, asks: Sequence[Ask], **how: Any) -> list[list[Token]]:
    batch = Continuations(model, asks, **how)
    lines: list[list[Token]] = [[] for _ in asks]
    while batch.going:
        for line, token in zip(lines, batch.step(), strict=True):
            if token is not None:
                line.append(token)
    return lines


def ids(line: Sequence[Token]) -> list[int]:
    return [token.token for token in line]


RICH = SamplingParams(
    0.9, 12, 0.9, 0.01,
    repetition_penalty=1.2, frequency_penalty=0.5, presence_penalty=-0.3,
    logit_bias={3: 2.0, 5: -4.0}, min_tokens=3, max_tokens=7, stop_token_ids=(3, 4), seed=5,
)  # fmt: skip


@pytest.mark.parametrize("static", [False, True])
def test_a_rich_request_is_chosen_from_uncached_passes(build: Build, static: bool) -> None:
    model, (prompt,) = build(), prompts(5)
    (line,) = run(model, [Ask(prompt, RICH, 5, 2, eos_id=1)], n_loops=3, static=static)
    output: list[int] = []
    with torch.no_grad():
        while len(output) < 7 and not {1, 3, 4} & set(output[2:]):
            logits: Tensor = model(torch.tensor([prompt + output]), n_loops=3)[:, -1]
            row = Row(RICH, 5, 2, prompt, output, (1, 3, 4))
            output = [*output, int(choose(logits, [row]))]
    assert ids(line) == output


@pytest.mark.parametrize("static", [False, True])
def test_a_continuation_is_the_same_alone_and_in_company(build: Build, static: bool) -> None:
    model = build(attn_type="mla")
    asks = [
        Ask(p, params, seed, i)
        for i, (p, params, seed) in enumerate(
            zip(
                prompts(6, 2, 4, 6),
                [GREEDY, RICH, SamplingParams(seed=9, max_tokens=4), GREEDY],
                [0, 5, 9, 1],
                strict=True,
            )
        )
    ]
    together = run(model, asks, static=static)
    for ask, line in zip(asks, together, strict=True):
        assert run(model, [ask], static=static) == [line]
        (other,) = run(model, [ask], static=not static)  # which counts loops otherwise
        assert ids(other) == ids(line)


def test_greedy_ones_are_those_of_generate_and_end_alike(build: Build) -> None:
    model, starts = build(), prompts(5, 5)
    want = model.generate(torch.tensor(starts), 6, 3, temperature=0.0)[:, 5:].tolist()
    eos = want[0][2]
    lines = run(model, [Ask(p, GREEDY, 0, eos_id=eos) for p in starts], n_loops=3)
    for line, whole in zip(lines, want, strict=True):
        end = whole.index(eos) + 1 if eos in whole else 6
        assert ids(line) == whole[:end]
        assert [t.finish for t in line[:-1]] == [None] * (end - 1)
        assert line[-1].finish == ("stop" if eos in whole else "length")


def test_an_end_is_a_token_like_others_where_it_is_ignored(build: Build) -> None:
    model, (prompt,) = build(), prompts(5)
    (free,) = run(model, [Ask(prompt, GREEDY, 0)])
    params = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
    (line,) = run(model, [Ask(prompt, params, 0, eos_id=free[1].token)])
    assert line == free


def test_loops_are_counted_where_positions_leave(build: Build) -> None:
    model, (prompt,) = build(readout="last"), prompts(5)
    (line,) = run(model, [Ask(prompt, GREEDY, 0)], n_loops=4)
    assert [t.loops for t in line] == [4] * 6
    (line,) = run(model, [Ask(prompt, GREEDY, 0)], n_loops=4, exit="fixed:2")
    assert [t.loops for t in line] == [2] * 6
    act = build(readout="act")
    (line,) = run(act, [Ask(prompt, GREEDY, 0)], n_loops=4)
    text = [*prompt, *ids(line)]
    used = act(torch.tensor([text]), n_loops=4, return_output=True).loops_used[0].tolist()
    assert [t.loops for t in line] == used[4:-1]


def test_reports_are_of_the_model_whatever_the_request_bends(build: Build) -> None:
    model, (prompt,) = build(), prompts(5)
    params = SamplingParams(
        temperature=0.0, logit_bias={7: 100.0}, repetition_penalty=2.0, logprobs=3, max_tokens=4
    )
    (line,) = run(model, [Ask(prompt, params, 0)], n_loops=3)
    text = torch.tensor([[*prompt, *ids(line)]])
    with torch.no_grad():
        scores = model(text, n_loops=3).log_softmax(-1)[0, 4:-1]
    assert set(ids(line)) == {7}
    for token, score in zip(line, scores, strict=True):
        assert token.logprobs is not None
        assert token.logprobs.logprob == pytest.approx(float(score[7]))
        assert [i for i, _ in token.logprobs.top] == score.topk(3).indices.tolist()


def test_no_limit_is_as_many_as_there_is_room_for(build: Build) -> None:
    model, (prompt,) = build(max_seq_len=12), prompts(5)
    (line,) = run(model, [Ask(prompt, SamplingParams(max_tokens=None), 0)])
    assert len(line) == 7
    assert line[-1].finish == "length"


def test_a_row_that_is_ended_from_outside_says_no_more(build: Build) -> None:
    model = build()
    batch = Continuations(model, [Ask(p, GREEDY, 0) for p in prompts(3, 4)])
    batch.step()
    batch.end(0)
    assert batch.step()[0] is None
    batch.end(1)
    assert not batch.going
    with pytest.raises(InputError, match="every continuation has ended"):
        batch.step()


def test_nothing_is_asked_of_a_request_for_no_tokens(build: Build) -> None:
    none = SamplingParams(max_tokens=0)
    assert run(build(), [Ask([1], none, 0)]) == [[]]


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], GREEDY, "prompt is empty"),
        ([1] * 30, GREEDY, "max_seq_len"),
        ([1], SamplingParams(max_tokens=17), "max_output_tokens"),
        ([1], SamplingParams(logit_bias={37: 1.0}, max_tokens=1), "token 37"),
        ([1], SamplingParams(constraint=Constraint("json"), max_tokens=1), "needs the tokenizer"),
    ],
    ids=lambda v: str(v)[:20],
)
def test_what_the_model_cannot_answer_is_refused_before_anything_runs(
    build: Build, prompt: list[int], params: SamplingParams, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Continuations(build(), [Ask(prompt, params, 0)])


def test_fixed_shapes_and_exits_exclude_each_other(build: Build) -> None:
    with pytest.raises(InputError, match="leave static or exit out"):
        Continuations(build(), [Ask([1], GREEDY, 0)], static=True, exit="fixed:1")
