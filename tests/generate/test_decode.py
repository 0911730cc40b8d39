"""Generation against roll-outs of uncached passes, one prompt at a time."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.generate.decode import Stop, check_room, stream
from open_mythos.generate.sampling import Sampling, pick
from open_mythos.model.mythos import OpenMythos


Config = Callable[..., MythosConfig]
Shake = Callable[..., Any]
Build = Callable[..., Any]
WAY_OUT = re.compile("must|lie in|fewer|shorten|ask for|raise")
GREEDY = Sampling(temperature=0.0)


@pytest.fixture
def build(tiny_config: Config, randomised: Shake) -> Build:
    """In float64, so that a tie between two tokens is decided in one way."""

    def make(**changes: Any) -> Any:
        return randomised(OpenMythos(tiny_config(**changes))).double().eval()

    return make


def prompt(rows: int = 2, length: int = 5) -> Tensor:
    return torch.randint(0, 37, (rows, length))


@torch.no_grad()
def rollout(model: Any, ids: Tensor, new: int, n_loops: int) -> Tensor:
    """Greedy tokens without a cache."""
    for _ in range(new):
        ids = torch.cat((ids, model(ids, n_loops=n_loops)[:, -1].argmax(-1, keepdim=True)), dim=1)
    return ids


@pytest.mark.parametrize("n_loops", [1, 4])
def test_greedy_is_the_argmax_of_uncached_passes(
    build: Build, attn_type: str, halted: str, readout: str, n_loops: int
) -> None:
    want = torch.zeros(2, 6)
    while len(want[:, 5:].unique()) == 1:  # one model of twenty says the same whatever it reads
        model, ids = build(attn_type=attn_type, halted=halted, readout=readout), prompt()
        want = rollout(model, ids, 8, n_loops)
    assert torch.equal(model.generate(ids, 8, n_loops, temperature=0.0), want)


def test_n_loops_none_is_the_configs(build: Build) -> None:
    model, ids = build(max_loop_iters=5), prompt()
    got = model.generate(ids, 8, None, temperature=0.0)
    assert torch.equal(got, rollout(model, ids, 8, 5))


def test_sampled_tokens_are_draws_from_uncached_passes(build: Build, attn_type: str) -> None:
    model, ids = build(attn_type=attn_type), prompt()
    sampling = Sampling(0.9, 6, 0.95, 0.02)
    seed = torch.Generator().manual_seed(8)
    want = ids
    with torch.no_grad():
        for _ in range(6):
            token = pick(model(want, n_loops=3)[:, -1], sampling, seed)
            want = torch.cat((want, token.unsqueeze(1)), dim=1)
    again = torch.Generator().manual_seed(8)
    got = model.generate(ids, 6, 3, 0.9, 6, top_p=0.95, min_p=0.02, generator=again)
    assert torch.equal(got, want)


def test_a_seed_fixes_generation_and_another_changes_it(build: Build) -> None:
    model, ids = build(), prompt(4)

    def sample(seed: int) -> Tensor:
        tokens: Tensor = model.generate(ids, 8, 2, generator=torch.Generator().manual_seed(seed))
        return tokens

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))
    torch.manual_seed(5)
    one = model.generate(ids, 8, 2)
    torch.manual_seed(5)
    assert torch.equal(model.generate(ids, 8, 2), one)  # None is torch's own


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_prompts_give_what_each_gives_alone(
    build: Build, attn_type: str, halted: str, side: str
) -> None:
    model = build(attn_type=attn_type, halted=halted)
    prompts = [prompt(1, length) for length in (6, 2, 4)]
    ids, mask = torch.full((3, 6), 9), torch.zeros(3, 6, dtype=torch.int64)
    for row, one in enumerate(prompts):
        where = slice(6 - one.shape[1], 6) if side == "left" else slice(0, one.shape[1])
        ids[row, where], mask[row, where] = one[0], 1
    got = model.generate(ids, 7, 3, temperature=0.0, attention_mask=mask)
    assert torch.equal(got[:, :6], ids)
    for row, one in enumerate(prompts):
        alone = model.generate(one, 7, 3, temperature=0.0)
        assert torch.equal(got[row, 6:], alone[0, one.shape[1] :])
    assert torch.equal(model.generate(ids, 7, 3, temperature=0.0, attention_mask=mask.bool()), got)


def test_a_row_that_met_eos_is_filled_with_it_and_the_others_go_on(build: Build) -> None:
    model, ids = build(), prompt(3)
    free = model.generate(ids, 8, 2, temperature=0.0)[:, 5:]
    eos = int(free[0, 2])
    got = model.generate(ids, 8, 2, temperature=0.0, eos_token_id=eos)[:, 5:]
    ends = [(row == eos).nonzero().flatten().tolist() for row in free]
    assert ends[0]
    last = max(end[0] if end else 7 for end in ends)
    assert got.shape[1] == last + 1  # it stops once every row has ended
    for row, whole, end in zip(got, free, ends, strict=True):
        stop = end[0] if end else last
        assert torch.equal(row[: stop + 1], whole[: stop + 1])
        assert (row[stop + 1 :] == eos).all()


def test_generation_of_one_row_ends_at_eos(build: Build) -> None:
    model, ids = build(), prompt(1)
    free = model.generate(ids, 8, 2, temperature=0.0)[0, 5:]
    eos = int(free[3])
    first = int((free == eos).nonzero()[0])
    got = model.generate(ids, 8, 2, temperature=0.0, eos_token_id=eos)
    assert torch.equal(got[0, 5:], free[: first + 1])


@torch.no_grad()
def test_stream_yields_token_by_token_and_runs_only_as_far_as_asked(build: Build) -> None:
    model, ids = build(), prompt()
    calls = []
    model.register_forward_hook(lambda _, x, __: calls.append(x[0].shape[1]))
    tokens = stream(model, ids, Stop(6), GREEDY, 3)
    assert isinstance(tokens, Iterator)
    assert calls == []
    first = next(tokens)
    assert (first.shape, calls) == ((2,), [5])
    second = next(tokens)
    assert calls == [5, 1]
    want = rollout(model, ids, 6, 3)[:, 5:]
    calls.clear()
    got = torch.stack([first, second, *tokens], dim=1)
    assert torch.equal(got, want)
    assert calls == [1, 1, 1, 1]  # the last token needs no pass of its own


def test_generation_leaves_no_gradient_and_keeps_the_ids_dtype(build: Build) -> None:
    model, ids = build(), prompt()
    assert not model.generate(ids, 2, 1).requires_grad
    assert model.generate(ids.int(), 2, 1).dtype == torch.int32
    got = model.generate(ids, 0, 1)
    assert torch.equal(got, ids)


def test_a_model_on_loan_is_given_back_as_it_was(build: Build) -> None:
    model, ids = build().train(), prompt()
    load = model.recurrent.block.ffn.load.clone()
    model.generate(ids, 3, 2)
    assert model.training
    assert torch.equal(model.recurrent.block.ffn.load, load)  # nothing is counted for balance


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "shown"),
    [
        (Stop(-1), ("max_new_tokens", "-1", "int >= 0")),
        (Stop(2.0), ("max_new_tokens", "2.0", "int >= 0")),  # type: ignore[arg-type]
        (Stop(True), ("max_new_tokens", "True", "int >= 0")),
        (Stop(17), ("max_new_tokens", "17", "max_output_tokens", "16", "fewer")),
        (Stop(13), ("20 prompt", "13 new", "33", "max_seq_len", "32")),
        (Stop(1, 37), ("eos_token_id", "37", "0 .. 36")),
        (Stop(1, -1), ("eos_token_id", "-1", "0 .. 36")),
        (Stop(1, 2.5), ("eos_token_id", "2.5", "int")),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_there_is_no_room_for(
    build: Build, tiny_config: Config, stop: Stop, shown: tuple[str, ...]
) -> None:
    model = build()

    def generate() -> None:
        model.generate(prompt(1, 20), stop.max_new_tokens, 1, eos_token_id=stop.eos_token_id)

    for call in (lambda: check_room(tiny_config(), 20, stop), generate):
        with pytest.raises(InputError) as caught:
            call()
        assert all(word in str(caught.value) for word in shown), str(caught.value)
        assert WAY_OUT.search(str(caught.value)), f"no way out in: {caught.value}"


def test_the_last_position_can_be_filled(build: Build) -> None:
    model = build()
    assert model.generate(prompt(1, 16), 16, 2).shape == (1, 32)


@pytest.mark.parametrize("wrong", [0, -2, 1.5, True])
def test_loops_that_cannot_be_run(build: Build, wrong: Any) -> None:
    with pytest.raises(InputError, match=f"n_loops is {wrong}.*at least 1"):
        build().generate(prompt(), 2, wrong)


def test_a_mask_of_another_shape(build: Build) -> None:
    model, ids = build(), prompt()
    for mask in (torch.ones(2, 4), torch.ones(1, 5), torch.ones(5), torch.zeros(2, 5)):
        with pytest.raises(InputError, match="attention_mask"):
            model.generate(ids, 2, 1, attention_mask=mask)
