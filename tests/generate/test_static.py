"""Tokens from fixed shapes are the tokens of the plain way; decoders are kept, and not too long."""

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.generate import decode, static
from open_mythos.generate.decode import Stop, stream, watched
from open_mythos.generate.sampling import Sampling
from open_mythos.generate.static import (
    Decoder,
    borrowed_decoder,
    capacity_bucket,
    read,
    rows_bucket,
)
from open_mythos.model.mythos import OpenMythos


Build = Callable[..., Any]
GREEDY = Sampling(temperature=0.0)

# Every attention with every readout, halted behaviour and injection; not every product of them.
KINDS = (
    ("act", "continue", "lti"),
    ("act", "freeze", "add"),
    ("act_sum", "freeze", "lti"),
    ("last", "continue", "add"),
)


@pytest.fixture(params=KINDS, ids="-".join)
def cfg(
    request: pytest.FixtureRequest, attn_type: str, tiny_config: Callable[..., MythosConfig]
) -> MythosConfig:
    readout, halted, injection = request.param
    return tiny_config(attn_type=attn_type, readout=readout, halted=halted, injection=injection)


@pytest.fixture
def build(tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]) -> Build:
    """In float64, so that a tie between two tokens is decided in one way."""

    def make(cfg: MythosConfig | None = None, **changes: Any) -> Any:
        cfg = tiny_config(**changes) if cfg is None else cfg
        return randomised(OpenMythos(cfg)).double().eval()

    return make


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(rows, capacity) of every decoder that generation makes."""
    shapes: list[tuple[int, int]] = []

    class Counted(Decoder):
        def __init__(self, model: Any, batch: int, capacity: int, *args: Any, **kwargs: Any):
            shapes.append((batch, capacity))
            super().__init__(model, batch, capacity, *args, **kwargs)

    monkeypatch.setattr(static, "Decoder", Counted)
    monkeypatch.setattr(decode, "Decoder", Counted)
    return shapes


def prompt(rows: int = 2, length: int = 5) -> Tensor:
    return torch.randint(0, 37, (rows, length))


def both(model: Any, ids: Tensor, new: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Static and plain, from the same seed."""
    torch.manual_seed(11)
    fixed = model.generate(ids, new, *args, **kwargs, static=True)
    torch.manual_seed(11)
    return fixed, model.generate(ids, new, *args, **kwargs, static=False)


def padded(*lengths: int, side: str = "left") -> tuple[Tensor, Tensor]:
    wide = max(lengths)
    at = torch.arange(wide)
    rows = [at >= wide - n if side == "left" else at < n for n in lengths]
    return prompt(len(lengths), wide), torch.stack(rows).long()


# -- the law: static = plain -----------------------------------------------------------------------


def test_greedy_and_sampled_tokens_are_those_of_the_plain_way(
    cfg: MythosConfig, build: Build
) -> None:
    model, ids = build(cfg), prompt(3)
    while len(model.generate(ids, 5, 3, temperature=0.0)[:, 5:].unique()) == 1:
        model = build(cfg)  # one of thirty says the same whatever it reads
    for how in ({"temperature": 0.0}, {"temperature": 0.9, "top_k": 9, "top_p": 0.95}):
        fixed, plain = both(model, ids, 5, 3, **how)
        assert torch.equal(fixed, plain)
        assert len(fixed[:, 5:].unique()) > 1


@pytest.mark.parametrize("kv", ["first", "last"])
def test_with_shared_keys_too(attn_type: str, halted: str, kv: str, build: Build) -> None:
    model = build(attn_type=attn_type, halted=halted, kv=kv)
    assert torch.equal(*both(model, prompt(), 6, 3, 0.8))


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_prompts_padded_on_the_left(attn_type: str, temperature: float, build: Build) -> None:
    model = build(attn_type=attn_type)
    ids, mask = padded(6, 2, 4)
    fixed, plain = both(model, ids, 5, 2, temperature, attention_mask=mask)
    assert torch.equal(fixed, plain)
    other, mask = padded(3, 6, 6)  # the kept decoder takes over the new paddings
    assert torch.equal(*both(model, other, 5, 2, temperature, attention_mask=mask))
    assert torch.equal(*both(model, other, 5, 2, temperature))


def test_a_generator_is_drawn_from_alike(build: Build) -> None:
    model, ids = build(), prompt()

    def sample(seed: int, **how: Any) -> Tensor:
        source = torch.Generator().manual_seed(seed)
        tokens: Tensor = model.generate(ids, 8, 3, generator=source, **how)
        return tokens

    fixed = sample(8, static=True)
    assert torch.equal(fixed, sample(8, static=False))
    assert torch.equal(fixed, sample(8, static=True))
    assert not torch.equal(fixed, sample(9, static=True))


def test_rows_end_at_eos_alike(build: Build) -> None:
    model, ids = build(), prompt(3)
    free = model.generate(ids, 8, 2, temperature=0.0)[:, 5:]
    for eos in free.unique().tolist()[:4]:
        fixed, plain = both(model, ids, 8, 2, 0.0, eos_token_id=eos)
        assert torch.equal(fixed, plain)
    alone = model.generate(ids[:1], 8, 2, 0.0, eos_token_id=int(free[0, 2]), static=True)
    first = int((free[0] == free[0, 2]).nonzero()[0])
    assert torch.equal(alone[0, 5:], free[0, : first + 1])  # and no further step is run


@pytest.mark.parametrize("rows", [1, 8, 9])
def test_spare_rows_of_a_bucket_change_nothing(
    rows: int, made: list[tuple[int, int]], build: Build
) -> None:
    model = build()
    ids, mask = padded(*[2 + row % 4 for row in range(rows)])
    assert torch.equal(*both(model, ids, 6, 3, 0.0))
    assert torch.equal(*both(model, ids, 6, 3, 0.0, attention_mask=mask))
    assert made == [(rows_bucket(rows), 32)] * 2  # one padded, one not


def test_few_or_no_new_tokens_and_the_last_position(build: Build) -> None:
    model, ids = build(), prompt(2, 16)
    assert torch.equal(model.generate(ids, 0, 2, static=True), ids)
    for new in (1, 16):
        fixed, plain = both(model, ids, new, 2, 0.0)
        assert torch.equal(fixed, plain)
        assert fixed.shape == (2, 16 + new)
    assert model.generate(ids.int(), 2, 1, static=True).dtype == torch.int32


def test_a_model_in_training_is_given_back_as_it_was(build: Build) -> None:
    model, ids = build(dropout=0.5).train(), prompt()
    fixed, plain = both(model, ids, 6, 3, 0.0)
    assert torch.equal(fixed, plain)
    assert model.training
    assert not fixed.requires_grad
    assert model.recurrent.block.ffn.load.eq(0).all()


# -- when it is used -------------------------------------------------------------------------------


def test_padding_on_the_right_is_refused_if_asked_for_and_works_by_itself(build: Build) -> None:
    model = build()
    ids, mask = padded(5, 3, side="right")
    with pytest.raises(InputError, match="padded on the left, or not at all"):
        model.generate(ids, 4, 2, attention_mask=mask, static=True)
    got = model.generate(ids, 4, 2, temperature=0.0, attention_mask=mask)
    alone = model.generate(ids[1:, :3], 4, 2, temperature=0.0)
    assert torch.equal(got[1, 5:], alone[0, 3:])
    holes = torch.tensor([[1, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    with pytest.raises(InputError, match="padded on the left"):
        model.generate(ids, 4, 2, attention_mask=holes, static=True)


def test_watched_sees_a_hook_on_any_layer(build: Build) -> None:
    model = build()
    assert not watched(model)
    for layer in (model, model.head, model.recurrent.act, model.coda[0].ffn, model.embed):
        handle = layer.register_forward_hook(lambda *_: None)
        assert watched(model)
        handle.remove()
    assert not watched(model)
    model.norm.forward = model.norm.forward
    assert watched(model)


@pytest.mark.parametrize(
    ("cuda", "hooked", "left", "want"),
    [
        (True, False, True, "static"),
        (True, True, True, "plain"),
        (True, False, False, "plain"),
        (False, False, True, "plain"),
    ],
)
def test_by_itself_it_is_used_on_a_gpu_where_it_is_right(
    cuda: bool, hooked: bool, left: bool, want: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, taken = build(), []
    monkeypatch.setattr(decode, "_in_fixed_shapes", lambda *_: taken.append("static") or [])
    monkeypatch.setattr(decode, "_one_by_one", lambda *_: taken.append("plain") or [])
    if hooked:
        model.coda[0].register_forward_hook(lambda *_: None)
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]] if left else [[1, 1, 0], [1, 1, 1]])
    ids: Any = SimpleNamespace(is_cuda=cuda, shape=mask.shape, device=mask.device)
    assert list(stream(model, ids, Stop(2), GREEDY, 2, attention_mask=mask)) == []
    assert taken == [want]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are captured on a GPU only")
def test_captured_prompts_are_those_that_are_read(attn_type: str, build: Build) -> None:
    model = build(attn_type=attn_type).cuda()
    fast, slow = (Decoder(model, 3, 16, 2, prompt=most) for most in (6, None))
    for length in (6, 4, 6, 6):
        ids = torch.randint(37, (3, length), device="cuda")
        assert torch.equal(fast.prefill(ids), slow.prefill(ids))
        assert fast.cache.whole.length == slow.cache.whole.length == length
        for _ in range(4):
            assert torch.equal(fast.step(), slow.step())
    assert fast._reading is not None


def test_prompts_of_several_passes_are_not_captured(build: Build) -> None:
    with pytest.raises(InputError, match="prompt is 40000"):
        Decoder(build(), 2, 16, 2, prompt=40000)


# -- buckets ---------------------------------------------------------------------------------------


def test_row_buckets_are_exact_when_small_and_waste_at_most_seven_rows() -> None:
    assert [rows_bucket(n) for n in range(1, 9)] == list(range(1, 9))
    for n in range(9, 200):
        assert rows_bucket(n) % 8 == 0
        assert 0 <= rows_bucket(n) - n < 8


def test_capacity_buckets_hold_the_length_within_the_limit() -> None:
    for length in (1, 255, 256, 257, 1000, 4095, 4096):
        room = capacity_bucket(length, 4096)
        assert length <= room <= max(256, 2 * length - 1)
        assert room & (room - 1) == 0
    assert capacity_bucket(20, 32) == 32
    assert capacity_bucket(3000, 3001) == 3001


# -- Decoder and read ------------------------------------------------------------------------------


@torch.no_grad()
def test_a_decoder_gives_the_argmax_of_uncached_passes_and_reads_anew(
    attn_type: str, build: Build
) -> None:
    model = build(attn_type=attn_type)
    decoder = Decoder(model, 2, 20, 4)
    for length in (6, 3, 9):  # each prompt finds the rest of the one before it
        ids = prompt(2, length)
        tokens = [decoder.prefill(ids)]
        tokens += [decoder.step() for _ in range(5)]
        for at, token in enumerate(tokens):
            assert torch.equal(token, model(ids, 4)[:, -1].argmax(-1)), at
            ids = torch.cat((ids, token[:, None]), dim=1)
    kept = tokens[-1].clone()
    decoder.step()
    assert torch.equal(tokens[-1], kept)  # what was handed out is the caller's


@torch.no_grad()
@pytest.mark.parametrize("compiled", [False, True])
def test_a_decoder_that_is_told_its_tokens_gives_the_logits_of_uncached_passes(
    build: Build, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    monkeypatch.setattr(static, "COMPILER", "eager")
    model, ids = build(), torch.randint(0, 37, (2, 5))
    decoder = Decoder(model, 2, 16, 3, compiled=compiled, told=True)
    decoder.prefill(ids)
    with torch.no_grad():
        assert torch.allclose(decoder.logits, model(ids, n_loops=3)[:, -1])
        for _ in range(3):
            token = torch.randint(0, 37, (2,))
            ids = torch.cat((ids, token.unsqueeze(1)), dim=1)
            assert torch.allclose(decoder.follow(token), model(ids, n_loops=3)[:, -1])


def test_a_padded_decoder_given_no_starts_reads_whole_rows(build: Build) -> None:
    model, ids, sampling = build(), prompt(8), Sampling(1.0)
    decoder = Decoder(model, 8, 20, 3, sampling, padded=True)
    decoder.prefill(prompt(8), torch.arange(8) % 5)
    torch.manual_seed(11)
    got = [decoder.prefill(ids), *(decoder.step() for _ in range(11))]
    torch.manual_seed(11)
    want = list(stream(model, ids, Stop(12), sampling, 3, static=False))
    assert torch.equal(torch.stack(got), torch.stack(want))


@torch.no_grad()
def test_an_unpadded_decoder_refuses_starts(build: Build) -> None:
    with pytest.raises(InputError, match="padded"):
        Decoder(build(), 2, 20, 3).prefill(prompt(), torch.tensor([2, 0]))


@pytest.mark.parametrize("tokens", [1, 7, 1000])
@torch.no_grad()
def test_prompts_are_read_in_pieces_with_the_same_result(
    attn_type: str, tokens: int, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(attn_type=attn_type)
    ids, mask = padded(7, 2, 5)
    monkeypatch.setattr(static, "PREFILL_TOKENS", tokens)
    widths: list[int] = []
    model.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    for given in (None, mask):
        want = model(ids, 3, attention_mask=given)[:, -1]
        widths.clear()
        got = read(model, ids, 3, model.new_cache(3, 9), given)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
        assert max(widths) == min(max(tokens // 3, 1), 7)
        assert sum(widths) == 7
    assert torch.equal(*both(model, ids, 2, 3, 0.0, attention_mask=mask))


# -- compiled steps --------------------------------------------------------------------------------


@torch.no_grad()
def told(model: Any, ids: Tensor, sampling: Sampling, new: int = 6, **how: Any) -> Tensor:
    decoder = Decoder(model, ids.shape[0], 20, 3, sampling, **how)
    torch.manual_seed(11)
    return torch.stack([decoder.prefill(ids), *(decoder.step() for _ in range(new))])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [(1, "continue", "aot_eager"), (2, "freeze", "eager")])
def test_a_compiled_step_gives_the_tokens_of_the_eager_one(
    kind: tuple[int, str, str], attn_type: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, halted, compiler = kind
    monkeypatch.setattr(static, "COMPILER", compiler)
    model, ids = build(attn_type=attn_type, halted=halted), prompt(rows)
    torch._dynamo.reset()
    for sampling in (Sampling(0.9, 9, 0.95), GREEDY):  # two graphs of the same code
        assert torch.equal(
            told(model, ids, sampling, compiled=True), told(model, ids, sampling, compiled=False)
        )


def test_a_compiled_step_sees_weights_that_change_and_can_be_padded(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "COMPILER", "eager")
    model, ids = build(), prompt(2)
    torch._dynamo.reset()
    starts = torch.tensor([0, 2])
    pair = [Decoder(model, 2, 20, 3, padded=True, compiled=c) for c in (True, False)]
    for _ in range(2):
        first, second = ([d.prefill(ids, starts), *(d.step() for _ in range(4))] for d in pair)
        assert torch.equal(torch.stack(first), torch.stack(second))
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(-0.7)


@pytest.mark.slow
def test_more_compiled_decoders_than_dynamo_keeps_variants(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "COMPILER", "eager")
    torch._dynamo.reset()
    ids, model = prompt(1), build()
    with torch._dynamo.config.patch(recompile_limit=1):
        for k in (2, 3):
            sampling = Sampling(1.0, k)
            assert torch.equal(
                told(model, ids, sampling, 3, compiled=True), told(model, ids, sampling, 3)
            )


def test_a_graph_and_a_compiled_step_exclude_each_other(build: Build) -> None:
    with pytest.raises(InputError, match="captured or compiled"):
        Decoder(build(), 2, 20, 3, graph=True, compiled=True)


@pytest.mark.slow
def test_inductor_gives_the_same_tokens(attn_type: str, build: Build) -> None:
    model, ids = build(attn_type=attn_type), prompt(1)
    torch._dynamo.reset()
    assert torch.equal(told(model, ids, GREEDY, compiled=True), told(model, ids, GREEDY))


# -- decoders that are kept ------------------------------------------------------------------------


def kept(model: Any, rows: int = 2, sampling: Sampling = GREEDY) -> Decoder:
    with borrowed_decoder(model, rows, 32, 3, sampling, padded=False) as decoder:
        return decoder


def test_a_decoder_is_kept_for_its_shapes_its_sampling_and_its_model(build: Build) -> None:
    model, other = build(), build()
    one = kept(model)
    assert kept(model) is one
    assert kept(other) is not one
    assert kept(model, sampling=Sampling(0.5)) is not one
    assert kept(model) is one
    kept(model, rows=3)  # a third one: the least recently used goes
    assert kept(model) is one
    kept(model, rows=4)
    kept(model, rows=5)
    assert kept(model) is not one


def test_a_decoder_that_is_out_is_given_to_nobody_else(build: Build) -> None:
    model = build()
    with borrowed_decoder(model, 2, 32, 3, GREEDY, padded=False) as one:
        other = kept(model)
        assert other is not one
        assert one.model is model
    assert kept(model) in (one, other)
    with (
        pytest.raises(KeyError, match="injected"),
        borrowed_decoder(model, 5, 32, 3, GREEDY, padded=False) as one,
    ):
        raise KeyError("injected")
    assert kept(model, rows=5) is one  # whatever ended its use, it comes back


def test_generation_reuses_it_and_a_generator_does_not(
    made: list[tuple[int, int]], build: Build
) -> None:
    model = build()
    for length in (3, 5, 9):
        model.generate(prompt(2, length), 4, 3, static=True)
    assert made == [(2, 32)]
    for _ in range(2):
        model.generate(prompt(), 4, 3, static=True, generator=torch.Generator())
    assert len(made) == 3


def test_it_follows_weights_that_change_in_place(made: list[tuple[int, int]], build: Build) -> None:
    model, ids = build(), prompt()
    seen = [both(model, ids, 8, 3, 0.0)[0]]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    for state in (None, build().state_dict()):
        if state is not None:
            model.load_state_dict(state)
        fixed, plain = both(model, ids, 8, 3, 0.0)
        assert torch.equal(fixed, plain)
        assert not torch.equal(fixed, seen[-1])
        seen.append(fixed)
    assert len(made) == 1  # by the same decoder


def test_it_is_made_anew_when_the_tensors_move(made: list[tuple[int, int]], build: Build) -> None:
    model, ids = build(), prompt()
    both(model, ids, 8, 3, 0.0)
    model.load_state_dict(build().state_dict(), assign=True)
    model.head.weight = model.embed.weight
    assert torch.equal(*both(model, ids, 8, 3, 0.0))
    assert len(made) == 2
    model.float()
    assert model.generate(ids, 8, 3, static=True).shape == (2, 13)
    assert len(made) == 3


def test_it_is_made_anew_when_a_buffer_moves(made: list[tuple[int, int]], build: Build) -> None:
    """A captured graph would go on reading the old router bias."""
    model, ids = build(), prompt()
    both(model, ids, 4, 3, 0.0)
    ffn = model.recurrent.block.ffn
    ffn.router_bias = ffn.router_bias.flip(0)
    assert torch.equal(*both(model, ids, 4, 3, 0.0))
    assert len(made) == 2


def test_a_model_that_nobody_holds_is_freed_with_its_decoders(build: Build) -> None:
    model = build()
    model.generate(prompt(), 3, 2, static=True)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@torch.no_grad()
def test_two_streams_of_one_model_do_not_disturb_each_other(build: Build) -> None:
    want = [torch.zeros(1)] * 2
    while torch.equal(*want):  # one model of thirty says the same whatever it reads
        model, prompts = build(), (prompt(), prompt())
        want = [model.generate(ids, 6, 3, 0.0, static=False)[:, 5:] for ids in prompts]
    streams = [stream(model, ids, Stop(6), GREEDY, 3, static=True) for ids in prompts]
    turns = list(zip(*streams, strict=True))
    for row, tokens in enumerate(want):
        assert torch.equal(torch.stack([turn[row] for turn in turns], dim=1), tokens)
    abandoned = stream(model, prompts[0], Stop(6), GREEDY, 3, static=True)
    next(abandoned)
    assert torch.equal(model.generate(prompts[1], 6, 3, 0.0, static=True)[:, 5:], want[1])
    assert torch.equal(torch.stack(list(abandoned), dim=1), want[0][:, 1:])


def test_tokens_may_be_drawn_between_a_loss_and_its_gradient(build: Build) -> None:
    model, ids = build(), prompt()
    model.generate(ids, 3, 3, static=True)
    loss = model(ids, 3).square().sum()
    model.generate(ids, 3, 3, static=True)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
