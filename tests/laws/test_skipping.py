"""Positions that leave the batch: the same as computing all of them, for what the rest costs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from open_mythos.config.budget import flops_per_token
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.attention.mla import MLAttention
from open_mythos.nn.loop import skipping
from open_mythos.nn.loop.exits.criterion import Seen
from open_mythos.nn.loop.exits.predictions import Oracle
from open_mythos.nn.loop.work import metered
from open_mythos.parallel.apply import apply


Build = Callable[..., OpenMythos]
VOCAB, LOOPS = 37, 6

INJECTIONS: tuple[dict[str, Any], ...] = (
    {"injection": "lti"},
    {"injection": "lti_first", "input_write": "euler", "input_matrix": True},
    {"injection": "add"},
    {"injection": "none"},
    {"injection": "concat_linear", "initial_state": "noise"},
    {"injection": "damped"},
    {"injection": "substep"},
    {"injection": "hyper", "streams": 2},
)
PARTS = st.fixed_dictionaries(
    {
        "attn_type": st.sampled_from(["gqa", "mla"]),
        "kv": st.sampled_from(["per_loop", "first", "last"]),
        "core_ffn": st.sampled_from(["moe", "dense"]),
        "core_layers": st.integers(1, 2),
        "loop_norm": st.sampled_from(["pre", "post", "sandwich", "none"]),
        "block_norm": st.sampled_from(["pre", "post", "sandwich", "pre_post"]),
        "loop_lora": st.booleans(),
        "loop_index": st.booleans(),
        "initial_state": st.sampled_from(["input", "zeros", "learned"]),
        "act_threshold": st.sampled_from([0.3, 0.6, 0.9]),
    }
)
HALTS = st.sampled_from(
    [
        ("act", None),
        ("act_last", None),
        ("act_sum", None),
        ("act", "latent:0.3"),
        ("last", "kl:0.01"),
        ("last", "acceleration:0.4"),
        ("last", "stability:1"),
        ("act_last", "gate:0.6"),
    ]
)
SEEDS = st.integers(0, 2**16)


def close(got: Tensor, want: Tensor, within: float = 1e-12) -> None:
    """Of one size, to `within` of the largest number."""
    want = want.detach()
    size = max(1.0, float(want.abs().max())) if want.numel() else 1.0
    torch.testing.assert_close(got.detach(), want, rtol=0.0, atol=within * size)


def of_unequal_depth(
    build: Build, seed: int, parts: dict[str, Any], readout: str, **changes: Any
) -> OpenMythos:
    """A network whose positions halt early and late."""
    torch.manual_seed(seed)
    injected = INJECTIONS[seed % len(INJECTIONS)]
    model = build(**{"halted": "freeze", **parts, "readout": readout, **injected, **changes})
    with torch.no_grad():
        model.recurrent.act.halt.bias.fill_(-1.0)
    return model


def both(model: OpenMythos, call: Callable[[], Any]) -> tuple[Any, Any]:
    """What a call gives where everybody is computed, and where those who have halted are not."""
    found = []
    for model.recurrent.skip in (False, True):
        found.append(call())
    model.recurrent.skip = None
    return found[0], found[1]


def padding(rows: int, length: int) -> Tensor:
    """Some on the left, some on the right, some in no row."""
    mask = torch.ones(rows, length, dtype=torch.bool)
    mask[0, :2] = mask[1, -1] = False
    return mask


# -- a pass --------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(parts=PARTS, halts=HALTS, seed=SEEDS, padded=st.booleans(), rows=st.booleans())
@torch.no_grad()
def test_a_pass_says_the_same_and_its_record_too(
    parts: dict[str, Any],
    halts: tuple[str, str | None],
    seed: int,
    padded: bool,
    rows: bool,
    build: Build,
) -> None:
    readout, text = halts
    depths: Any = [3, LOOPS, 4] if rows else LOOPS
    model = of_unequal_depth(build, seed, parts, readout)
    ids, mask = torch.randint(VOCAB, (3, 7)), padding(3, 7) if padded else None
    whole, apart = both(
        model, lambda: model(ids, depths, exit=text, attention_mask=mask, return_output=True)
    )
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    close(apart.logits[real], whole.logits[real])
    for name in ("n_loops", "router_load", "row_loops"):
        got, want = getattr(apart, name), getattr(whole, name)
        assert torch.equal(got, want) if isinstance(want, Tensor) else got == want
    assert torch.equal(apart.loops_used[real], whole.loops_used[real])
    for name in ("halting", "halting_weights"):
        got, want = getattr(apart, name), getattr(whole, name)
        assert (got is None) == (want is None)
        if want is not None:
            close(got[:, real], want[:, real])
    for name in ("state_rms", "state_change"):  # in float32
        torch.testing.assert_close(getattr(apart, name), getattr(whole, name))
    if whole.ponder_cost is not None:
        close(apart.ponder_cost, whole.ponder_cost)
    # The first loop is everybody's, padding included; after it only who is needed is there.
    assert apart.work.positions == ids.numel() + int((apart.loops_used[real] - 1).sum())
    assert apart.work.flops <= whole.work.flops
    assert apart.work.full_flops == whole.work.full_flops


@settings(max_examples=6)
@given(
    parts=PARTS, halts=HALTS, seed=SEEDS, most=st.sampled_from([0.3, 0.5, 0.7]), rows=st.booleans()
)
@torch.no_grad()
def test_a_pass_may_change_over_and_back(
    parts: dict[str, Any],
    halts: tuple[str, str | None],
    seed: int,
    most: float,
    rows: bool,
    build: Build,
) -> None:
    """By the policy: some loops whole, some apart; and whole again where rows have ended."""
    readout, text = halts
    model = of_unequal_depth(build, seed, parts, readout)
    ids, depths = torch.randint(VOCAB, (4, 6)), ([3, LOOPS, 2, 5] if rows else LOOPS)
    model.recurrent.skip = False
    whole = model(ids, depths, exit=text, return_output=True)
    model.recurrent.skip = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(skipping.COST, "cpu", 0.0)
        patch.setitem(skipping.LEAST, "cpu", 0.0)
        patch.setattr(skipping, "MOST", most)
        mixed = model(ids, depths, exit=text, return_output=True)
    close(mixed.logits, whole.logits)
    assert torch.equal(mixed.loops_used, whole.loops_used)
    assert torch.equal(mixed.router_load, whole.router_load)
    assert int(mixed.loops_used.sum()) <= mixed.work.positions <= whole.work.positions


@settings(max_examples=6)
@given(parts=PARTS, halts=HALTS, seed=SEEDS, padded=st.booleans())
@torch.no_grad()
def test_chunks_decoded_tokens_and_what_a_cache_keeps_are_the_same(
    parts: dict[str, Any], halts: tuple[str, str | None], seed: int, padded: bool, build: Build
) -> None:
    readout, text = halts
    model = of_unequal_depth(build, seed, parts, readout)
    ids, mask = torch.randint(VOCAB, (4, 9)), padding(4, 9) if padded else None
    cuts = [3, 4, 1, 1]

    def read() -> tuple[Tensor, list[Tensor]]:
        cache = model.new_cache(4, 9)
        said, past = [], 0
        for part in ids.split(cuts, dim=1):
            shown = None if mask is None else mask[:, past : past + part.shape[1]]
            said.append(model(part, LOOPS, cache, exit=text, attention_mask=shown))
            past += part.shape[1]
        kept = [t for _, slot in cache.slots() for t in slot.committed().values()]
        return torch.cat(said, dim=1), kept

    (whole, kept), (apart, left) = both(model, read)
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    close(apart[real], whole[real], 1e-11)  # what rounding adds up to over four passes
    for got, want in zip(left, kept, strict=True):
        close(got[real], want[real], 1e-11)


@settings(max_examples=5)
@given(parts=PARTS, halts=HALTS, seed=SEEDS)
@torch.no_grad()
def test_keys_of_the_first_loop_let_positions_go_that_would_go_on(
    parts: dict[str, Any], halts: tuple[str, str | None], seed: int, build: Build
) -> None:
    """With halted "continue", where all loops look at the first one's keys and nobody records."""
    readout, text = halts
    model = of_unequal_depth(build, seed, {**parts, "kv": "first"}, readout, halted="continue")
    ids = torch.randint(VOCAB, (3, 6))
    used = int(model(ids, LOOPS, exit=text, return_output=True).loops_used.sum())
    for cached in (False, True):

        def call(cached: bool = cached) -> tuple[Tensor, int]:
            cache = model.new_cache(3, 6) if cached else None
            with metered(model.recurrent) as meter:
                said = model(ids, LOOPS, cache, exit=text)
            return said, meter.work.positions

        (whole, most), (apart, least) = both(model, call)
        close(apart, whole)
        assert least == used <= most


@torch.no_grad()
def test_documents_and_an_oracle(attn_type: str, build: Build) -> None:
    model = of_unequal_depth(build, 0, {"attn_type": attn_type}, "last")
    ids = torch.randint(VOCAB, (3, 8))
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2], [0] * 8, [0, 1, 2, 3, 4, 5, 6, 7]])
    answers = torch.stack([model(ids, n).argmax(-1) for n in range(1, LOOPS + 1)])
    targets = answers[torch.randint(LOOPS, ids.shape), torch.arange(3)[:, None], torch.arange(8)]
    for rule in ("kl:0.01", Oracle(targets)):
        whole, apart = both(
            model,
            lambda rule=rule: model(ids, LOOPS, exit=rule, documents=documents, return_output=True),
        )
        close(apart.logits, whole.logits)
        assert torch.equal(apart.loops_used, whole.loops_used)
        assert apart.work.positions == int(apart.loops_used.sum()) < whole.work.positions


@torch.no_grad()
def test_the_call_form_of_0_5_with_an_additive_mask(attn_type: str, build: Build) -> None:
    from open_mythos.nn.rotary import precompute_rope_freqs

    model = of_unequal_depth(build, 0, {"attn_type": attn_type}, "act", act_threshold=0.5)
    loop, cfg = model.recurrent, model.cfg
    h, e = torch.randn(2, 3, 6, cfg.dim, dtype=torch.float64)
    freqs = precompute_rope_freqs(cfg.rope_dim, 20, cfg.rope_theta)
    mask = torch.full((1, 1, 6, 6), float("-inf"), dtype=torch.float64).triu(1)
    with metered(loop) as meter:
        whole, apart = both(model, lambda: loop(h, e, freqs, mask, LOOPS))
    close(apart, whole)
    assert meter.passes == 2
    assert meter.work.positions < meter.work.full_positions


# -- training ------------------------------------------------------------------------------------


def gradients(model: OpenMythos) -> dict[str, Tensor | None]:
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


@settings(max_examples=10)
@given(
    parts=PARTS,
    readout=st.sampled_from(["act", "act_last", "act_sum"]),
    seed=SEEDS,
    rows=st.booleans(),
    backprop=st.sampled_from([None, 2]),
    padded=st.booleans(),
)
def test_training_finds_the_same_gradients(
    parts: dict[str, Any],
    readout: str,
    seed: int,
    rows: bool,
    backprop: int | None,
    padded: bool,
    build: Build,
) -> None:
    model = of_unequal_depth(build, seed, parts, readout).train()
    if seed % 3 == 0:
        model.recurrent.train_gate()
    if seed % 5 == 0:
        apply(model, checkpointed=True)
    ids, mask = torch.randint(VOCAB, (3, 6)), padding(3, 6) if padded else None
    real = torch.ones(3, 6, dtype=torch.float64) if mask is None else mask.double()
    by = torch.randn(2, 3, 6, VOCAB, dtype=torch.float64) * real.unsqueeze(-1)
    head = model.embed.weight.detach()
    depths: Any = [LOOPS, 3, 5] if rows else LOOPS

    def step() -> tuple[Any, dict[str, Tensor | None]]:
        torch.manual_seed(seed)  # a state that starts from noise starts from other noise each time
        out = model(
            ids, depths, attention_mask=mask, backprop_loops=backprop, read_loops=(2,),
            return_output=True,
        )  # fmt: skip
        total = (out.logits * by[0]).sum() + out.ponder_cost
        total = total + (out.loop_features[0] @ head.T * by[1]).sum()
        total = total + (out.halting * out.halting_weights * real).sum()
        total.backward()
        return out, gradients(model)

    (whole, slopes), (apart, found) = both(model, step)
    assert apart.n_loops == whole.n_loops == LOOPS
    close(apart.logits * real.unsqueeze(-1), whole.logits * real.unsqueeze(-1))
    close(apart.halting * real, whole.halting * real)
    assert torch.equal(apart.router_load, whole.router_load)
    assert (apart.loops_used * real).equal(whole.loops_used * real)
    assert apart.work.positions <= whole.work.positions
    for name, want in slopes.items():
        got = found[name]
        if want is None:  # experts of a loop that nobody reaches
            assert got is None or not got.any(), name
        else:
            close(got, want)


def test_training_goes_on_where_nobody_is_left(build: Build) -> None:
    """Equally many loops, for nothing: and the same sums of experts' loads as without."""
    model = of_unequal_depth(build, 0, {}, "act").train()
    with torch.no_grad():
        model.recurrent.act.halt.bias.fill_(9.0)
    ids = torch.randint(VOCAB, (2, 5))
    whole, apart = both(model, lambda: model(ids, LOOPS, return_output=True))
    assert apart.n_loops == LOOPS
    assert apart.work.positions == ids.numel()
    assert whole.work.positions == LOOPS * ids.numel()
    for name in ("logits", "halting", "halting_weights", "state_rms", "state_change"):
        torch.testing.assert_close(getattr(apart, name), getattr(whole, name))


# -- who is not skipped --------------------------------------------------------------------------


class Odd:
    """An exit of one's own, which counts on the batch's shape."""

    def done(self, seen: Seen) -> Tensor:
        return (seen.after[..., 0] > 0) & (torch.arange(seen.after.shape[1]) % 2 == 0)


class Told(Odd):
    """The same of positions side by side."""

    packs = True

    def done(self, seen: Seen) -> Tensor:
        s = torch.arange(seen.after.shape[1])
        if seen.places is not None:
            s = seen.places % 6
        return (seen.after[..., 0] > 0) & (s % 2 == 0)


@torch.no_grad()
def test_an_exit_of_ones_own_sees_the_batch_unless_it_says_otherwise(build: Build) -> None:
    model = of_unequal_depth(build, 0, {}, "last")
    ids = torch.randint(VOCAB, (3, 6))
    model.recurrent.skip = True
    whole, apart = (model(ids, LOOPS, exit=rule, return_output=True) for rule in (Odd(), Told()))
    close(apart.logits, whole.logits)
    assert whole.work.positions == LOOPS * ids.numel() > apart.work.positions


@pytest.mark.parametrize("where", ["act", "ffn", "attn", "block", "norm"])
@torch.no_grad()
def test_who_looks_into_a_layer_sees_every_position(where: str, build: Build) -> None:
    model = of_unequal_depth(build, 0, {}, "act", act_threshold=0.5)
    loop, ids, seen = model.recurrent, torch.randint(VOCAB, (3, 6)), []
    model.recurrent.skip = True
    assert model(ids, LOOPS, return_output=True).work.positions < LOOPS * ids.numel()
    layers = {"act": loop.act, "ffn": loop.block.ffn, "attn": loop.block.attn.wo}
    layer = {**layers, "block": loop.block, "norm": loop.norm}[where]
    layer.register_forward_hook(lambda _, given, out: seen.append(given[0].shape[:2]))
    out = model(ids, LOOPS, return_output=True)
    assert out.work.positions == out.n_loops * ids.numel()
    assert all(shape == ids.shape for shape in seen)


def test_dropout_compiled_turns_and_ranks_in_step_are_left_alone(build: Build) -> None:
    ids = torch.randint(VOCAB, (2, 6))
    for prepare in (
        lambda m: setattr(m.cfg, "dropout", 0.1),
        lambda m: setattr(m.recurrent, "lockstep", True),
        lambda m: vars(m.recurrent).__setitem__("turn", m.recurrent.turn),
    ):
        model = of_unequal_depth(build, 0, {}, "act", act_threshold=0.5).train()
        model.recurrent.skip = True
        assert model(ids, LOOPS, return_output=True).work.positions < LOOPS * ids.numel()
        prepare(model)
        assert model(ids, LOOPS, return_output=True).work.positions == LOOPS * ids.numel()


@torch.no_grad()
def test_small_networks_are_computed_whole_unless_told(build: Build) -> None:
    model = of_unequal_depth(build, 0, {}, "act", act_threshold=0.5)
    out = model(torch.randint(VOCAB, (3, 6)), LOOPS, return_output=True)
    assert out.work.positions == out.n_loops * 18


# -- generation ----------------------------------------------------------------------------------


@settings(max_examples=5)
@given(parts=PARTS, halts=HALTS, seed=SEEDS)
@torch.no_grad()
def test_the_same_tokens_are_generated(
    parts: dict[str, Any], halts: tuple[str, str | None], seed: int, build: Build
) -> None:
    readout, text = halts
    model = of_unequal_depth(build, seed, parts, readout)
    ids = torch.randint(VOCAB, (3, 4))
    whole, apart = both(model, lambda: model.generate(ids, 5, LOOPS, 0.0, exit=text))
    assert torch.equal(apart, whole)


# -- what is counted -----------------------------------------------------------------------------


@contextmanager
def attention_for_nothing() -> Iterator[None]:
    """Attention that multiplies nothing: its FLOPs are those of pairs, which follow by hand."""

    def nothing(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        return (q.sum(-1, keepdim=True) + 0 * k.sum()).tanh() * v.mean(2, keepdim=True).repeat(
            1, q.shape[1] // v.shape[1], 1, 1
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", nothing)
        yield


@settings(max_examples=8)
@given(
    parts=PARTS,
    halts=HALTS,
    seed=SEEDS,
    skip=st.booleans(),
    form=st.sampled_from(["expanded", "absorbed"]),
)
@torch.no_grad()
def test_flops_are_those_that_torch_counts(
    parts: dict[str, Any], halts: tuple[str, str | None], seed: int, skip: bool, form: Any,
    build: Build,
) -> None:  # fmt: skip
    """Of the matrix products; attention by hand: a position sees itself and those before it."""
    readout, text = halts
    model = of_unequal_depth(build, seed, {**parts, "act_threshold": 0.6}, readout)
    cfg, loop = model.cfg, model.recurrent
    for layer in model.modules():
        if isinstance(layer, MLAttention):
            layer.form = form
    for ffn in loop.mixtures:
        ffn.experts_backend = "loop"  # of plain products, which the counter sees
    loop.skip, ids = skip, torch.randint(VOCAB, (2, 5))
    with attention_for_nothing():
        outside = FlopCounterMode(display=False)
        with outside:
            shallow = model(ids, 1, exit=text, return_output=True)
        counter = FlopCounterMode(display=False)
        with counter:
            out = model(ids, LOOPS, exit=text, return_output=True)
    # One loop beside six: prelude, coda and head are the same, and so is the first loop.
    counted = counter.get_total_flops() - outside.get_total_flops()
    used = out.loops_used if skip else torch.full_like(ids, out.n_loops)
    pairs = int(((used - 1) * torch.arange(1, 6)).sum())
    if cfg.attn_type == "gqa":
        each = 2 * cfg.head_dim
    elif form == "expanded":
        each = cfg.qk_nope_head_dim + cfg.qk_rope_head_dim + cfg.v_head_dim
    else:
        each = 2 * cfg.kv_lora_rank + cfg.qk_rope_head_dim
    attention = 2 * cfg.core_layers * cfg.n_heads * each * pairs
    # A matrix times a vector is not counted, nor are hyper-connections' small products.
    unseen = 2 * cfg.dim * (cfg.readout != "last") * int((used - 1).sum())
    ours = out.work.flops - shallow.work.flops - attention - unseen
    if cfg.injection != "hyper":
        assert ours == pytest.approx(counted, rel=1e-12, abs=1e-6)


@pytest.mark.parametrize("kv", ["per_loop", "first"])
@torch.no_grad()
def test_nobody_leaving_is_what_the_budget_says(attn_type: str, kv: str, build: Build) -> None:
    model = build(attn_type=attn_type, readout="last", kv=kv)
    if attn_type == "mla":
        model.recurrent.block.attn.form = "expanded"
    out = model(torch.randint(VOCAB, (3, 7)), 4, return_output=True)
    want = 21 * flops_per_token(model.cfg, 4, 7).loops
    assert out.work.flops == out.work.full_flops == pytest.approx(want)
    assert out.work.share == 1.0
    rows = model(torch.randint(VOCAB, (3, 7)), [1, 4, 2], return_output=True).work
    assert rows == replace(rows, positions=49, full_positions=49)
    assert rows.flops == rows.full_flops
