"""The loop written by hand: whose keys it looks at, and how far back it is differentiated."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.config.budget import cache_bytes_per_token
from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CacheError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.cache import Entries
from open_mythos.nn.loop.adapter import loop_index_embedding
from open_mythos.nn.rotary import rotary


Build = Callable[..., OpenMythos]
LOOPS = 3

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


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def turns(cfg: MythosConfig, start: int, end: int) -> AttentionContext:
    return AttentionContext(rotary(torch.arange(start, end), cfg.rope_dim, cfg.rope_theta))


def keep(halted: Tensor, old: Entries, new: Entries) -> Entries:
    """`new`, with the entries of halted positions as they were."""
    return {
        name: torch.where(halted.view(*halted.shape, *[1] * (t.dim() - 2)), old[name], t)
        for name, t in new.items()
    }


def loop_by_hand(
    model: OpenMythos,
    e: Tensor,
    n_loops: int,
    past: Sequence[Entries] = (),
    start: int = 0,
    cut: int = 0,
) -> tuple[Tensor, list[Entries]]:
    """What the coda reads at the positions of `e`, and the entries that each loop showed there.

    Args:
        model: Whose weights.
        e: (B, T, dim).
        n_loops: Loops.
        past: For each loop, the entries of earlier positions that it looks at.
        start: Index of the first position.
        cut: The state after so many loops is taken as given: nothing before it has a gradient.
    """
    cfg, loop, block = model.cfg, model.recurrent, model.recurrent.block
    context = turns(cfg, start, start + e.shape[1])
    h, mean, spent = e, torch.zeros_like(e), torch.zeros_like(e[..., 0])
    halted = torch.zeros_like(spent, dtype=torch.bool)
    shown: list[Entries] = []
    for t in range(n_loops):
        if cut and t == cut:
            h, mean, spent = h.detach(), mean.detach(), spent.detach()
            shown = [{name: k.detach() for name, k in entries.items()} for entries in shown]
        x = h + e
        if cfg.loop_index:
            x = x + cfg.loop_index_scale * loop_index_embedding(0 * h, t, cfg.dim // 8)
        x = loop.norm(x)
        q, own = block.attn.project(block.attn_norm(x), context.rotary)
        if cfg.kv == "first" and t > 0:
            own = shown[0]
        elif cfg.halted == "freeze" and t > 0:
            own = keep(halted, shown[-1], own)
        shown.append(own)
        seen = own
        if past:
            seen = {name: torch.cat((past[t][name], k), dim=1) for name, k in own.items()}
        x = x + block.attn.mix(q, seen, context)
        x = x + block.ffn(block.ffn_norm(x))
        if loop.lora is not None:
            x = x + loop.lora(x, t)
        new = x
        if cfg.injection == "lti":
            new = loop.injection.get_A() * h + loop.injection.B * e + x
        h = torch.where(halted.unsqueeze(-1), h, new) if cfg.halted == "freeze" else new
        if cfg.readout == "last":
            mean = h
            continue
        p = loop.act(h)
        reached = ~halted & (spent + p >= cfg.act_threshold)
        closing = ~halted if cfg.readout == "act" and t == n_loops - 1 else reached
        weight = torch.where(closing, 1 - spent, torch.where(halted, 0.0, p))
        mean = mean + weight.unsqueeze(-1) * h
        spent = spent + torch.where(halted, 0.0, p)
        halted = halted | reached
    return mean, shown


def before_loop(model: OpenMythos, ids: Tensor) -> Tensor:
    x = model.embed(ids)
    for block in model.prelude:
        x = block.run(x, turns(model.cfg, 0, ids.shape[1]))[0]
    return x


def after_loop(model: OpenMythos, x: Tensor) -> Tensor:
    for block in model.coda:
        x = block.run(x, turns(model.cfg, 0, x.shape[1]))[0]
    return model.norm(x) @ model.embed.weight.T


def by_hand(model: OpenMythos, ids: Tensor, n_loops: int, cut: int = 0) -> Tensor:
    """Logits of an uncached pass."""
    return after_loop(model, loop_by_hand(model, before_loop(model, ids), n_loops, cut=cut)[0])


def by_hand_in_chunks(model: OpenMythos, ids: Tensor, n_loops: int, split: list[int]) -> Tensor:
    """Logits where every loop looks at what the LAST loop showed of earlier chunks."""
    e, start, parts = before_loop(model, ids), 0, []
    past: Entries = {}
    for count in split:
        chunk = e[:, start : start + count]
        value, shown = loop_by_hand(model, chunk, n_loops, [past] * n_loops if past else (), start)
        parts.append(value)
        last = shown[-1]
        past = {n: torch.cat((past[n], k), dim=1) for n, k in last.items()} if past else last
        start += count
    return after_loop(model, torch.cat(parts, dim=1))


def in_chunks(model: OpenMythos, ids: Tensor, split: list[int], cache: Any, loops: int) -> Tensor:
    parts, start = [], 0
    for count in split:
        parts.append(model(ids[:, start : start + count], loops, cache))
        start += count
    return torch.cat(parts, dim=1)


def decoded(model: OpenMythos, ids: Tensor, prompt: int, loops: int) -> Tensor:
    """Logits from position `prompt` on, in fixed shapes."""
    cache = model.new_static_cache(ids.shape[0], ids.shape[1] + 2, loops)
    if prompt:
        model(ids[:, :prompt], loops, cache.whole)
        cache.position.fill_(prompt)
    steps = [model.decode(token, cache) for token in ids[:, prompt:].unbind(1)]
    return torch.stack(steps, dim=1)


def gradients(model: OpenMythos, logits: Tensor, up: Tensor) -> dict[str, Tensor]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad((logits * up).sum(), list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(named.items(), found, strict=True)
    }


def same_gradients(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    for name, tensor in want.items():
        scale = 1 + tensor.abs().max().item()
        torch.testing.assert_close(
            got[name], tensor, rtol=1e-8, atol=1e-9 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


# -- first -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_first_is_a_loop_over_the_keys_of_loop_0_in_every_way(
    cfg: MythosConfig, build: Build
) -> None:
    model = build(replace(cfg, kv="first"))
    ids = torch.randint(37, (2, 6))
    want = by_hand(model, ids, LOOPS)
    close(model(ids, LOOPS), want)
    close(in_chunks(model, ids, [1] * 6, model.new_cache(2, 6), LOOPS), want)
    close(in_chunks(model, ids, [3, 1, 2], {}, LOOPS), want)
    close(decoded(model, ids, 2, LOOPS), want[:, 2:])
    close(torch.cat([model(row[None], LOOPS) for row in ids]), want)


@torch.no_grad()
def test_first_differs_from_per_loop_from_the_second_loop_on(attn_type: str, build: Build) -> None:
    """So that the laws above cannot hold by ignoring the field."""
    model = build(attn_type=attn_type, readout="last")
    ids = torch.randint(37, (2, 5))
    own = {n: model(ids, n) for n in (1, 2)}
    model.cfg.kv = "first"
    close(model(ids, 1), own[1])
    assert not torch.allclose(model(ids, 2), own[2], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_first_forms_keys_in_loop_0_alone(attn_type: str, halted: str, build: Build) -> None:
    model = build(attn_type=attn_type, halted=halted, kv="first", act_threshold=1.0)
    attn, formed = model.recurrent.block.attn, []
    original = attn.project
    attn.project = lambda *a: formed.append(a[0].shape) or original(*a)
    model(torch.randint(37, (2, 5)), 4)
    assert formed == [(2, 5, model.cfg.dim)]


def test_first_is_trained_as_it_is_run(cfg: MythosConfig, build: Build) -> None:
    """The keys' gradient is the sum over all loops that looked at them; a cache changes nothing."""
    model = build(replace(cfg, kv="first")).train()
    ids, up = torch.randint(37, (2, 4)), torch.randn(2, 4, 37, dtype=torch.float64)
    want = gradients(model, by_hand(model, ids, LOOPS), up)
    same_gradients(gradients(model, model(ids, LOOPS), up), want)
    same_gradients(gradients(model, model(ids, LOOPS, model.new_cache(2, 4)), up), want)


# -- last ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_last_is_per_loop_without_a_cache(cfg: MythosConfig, build: Build) -> None:
    model = build(replace(cfg, kv="last"))
    ids = torch.randint(37, (2, 5))
    without = model(ids, LOOPS)
    close(without, by_hand(model, ids, LOOPS))  # which knows of no sharing here
    close(model(ids, LOOPS, model.new_cache(2, 5)), without)  # nor does a first chunk
    model.cfg.kv = "per_loop"
    assert torch.equal(model(ids, LOOPS), without)


@pytest.mark.parametrize("split", [[1] * 6, [3, 1, 2]], ids=str)
@torch.no_grad()
def test_last_looks_at_what_the_last_loop_showed(
    cfg: MythosConfig, split: list[int], build: Build
) -> None:
    model = build(replace(cfg, kv="last"))
    ids = torch.randint(37, (2, 6))
    want = by_hand_in_chunks(model, ids, LOOPS, split)
    close(in_chunks(model, ids, split, model.new_cache(2, 6), LOOPS), want)
    close(in_chunks(model, ids, split, {}, LOOPS), want)
    if len(split) == 6:
        close(decoded(model, ids, 0, LOOPS), want)


@torch.no_grad()
def test_last_is_exact_with_one_loop_and_approximate_with_more(
    attn_type: str, halted: str, build: Build
) -> None:
    model = build(attn_type=attn_type, halted=halted, kv="last", readout="last")
    ids = torch.randint(37, (2, 6))
    for loops, exact in ((1, True), (2, False), (LOOPS, False)):
        whole = model(ids, loops)
        for got in (
            in_chunks(model, ids, [1] * 6, model.new_cache(2, 6), loops),
            decoded(model, ids, 0, loops),
        ):
            assert torch.allclose(got, whole, rtol=1e-9, atol=1e-9) == exact
            close(got[:, 0], whole[:, 0])  # the first position has no past to approximate


# -- what a shared cache holds ---------------------------------------------------------------------


@pytest.mark.parametrize("kv", ["per_loop", "first", "last"])
@torch.no_grad()
def test_memory_is_flat_in_loops_where_they_share(attn_type: str, kv: str, build: Build) -> None:
    model = build(attn_type=attn_type, kv=kv)
    numbers = sum(torch.Size(width).numel() for width in model.cfg.cache_widths.values())
    sizes = []
    for loops in (1, 2, 5):
        slots = 2 + (loops if kv == "per_loop" else 1)  # one prelude and one coda block
        want = slots * numbers * 8
        assert cache_bytes_per_token(model.cfg, loops, 8) == want
        cache = model.new_cache(2, 7)
        entries: dict[str, Any] = {}
        for given in (cache, entries):
            model(torch.randint(37, (2, 4)), loops, given)
        assert cache.nbytes == want * 2 * 7
        assert model.new_static_cache(2, 7, loops).whole.nbytes == cache.nbytes
        size = sum(t.numel() * 8 for entry in entries.values() for t in entry.values())
        assert size == want * 2 * 4
        assert len(entries) == slots
        sizes.append(cache.nbytes)
    assert (len(set(sizes)) == 1) == (kv != "per_loop")


@pytest.mark.parametrize("kv", ["first", "last"])
@torch.no_grad()
def test_a_filled_cache_refuses_another_loop_count(kv: str, build: Build) -> None:
    model = build(kv=kv)
    cache = model.new_cache(2, 9)
    model(torch.randint(37, (2, 3)), 2, cache)
    with pytest.raises(CacheError, match="filled with 2 loops, the call asks for 3"):
        model(torch.randint(37, (2, 1)), 3, cache)
    assert model(torch.randint(37, (2, 1)), None, cache, return_output=True).n_loops == 2
    cache.truncate(0)
    model(torch.randint(37, (2, 3)), 3, cache)  # emptied, it serves any number
    assert cache.n_loops == 3


@pytest.mark.parametrize("kinds", [("first", "per_loop"), ("per_loop", "last"), ("last", "first")])
@torch.no_grad()
def test_a_cache_of_another_mode_is_refused(kinds: tuple[str, str], build: Build) -> None:
    made, used = (build(kv=kind) for kind in kinds)
    for cache in (made.new_cache(2, 9), {}):
        made(torch.randint(37, (2, 3)), 1, cache)
        with pytest.raises(CacheError, match=rf"'kv': \('{kinds[0]}', '{kinds[1]}'\)"):
            used(torch.randint(37, (2, 1)), 1, cache)


# -- backprop_loops --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kv", "last"), [("per_loop", 1), ("first", 2)])
def test_backprop_loops_takes_earlier_loops_as_given(
    cfg: MythosConfig, kv: str, last: int, build: Build
) -> None:
    model = build(replace(cfg, kv=kv)).train()
    ids, up = torch.randint(37, (2, 4)), torch.randn(2, 4, 37, dtype=torch.float64)
    logits = model(ids, LOOPS, backprop_loops=last)
    close(logits, model(ids, LOOPS))
    want = gradients(model, by_hand(model, ids, LOOPS, cut=LOOPS - last), up)
    same_gradients(gradients(model, logits, up), want)


def test_backprop_loops_leaves_something_out_until_it_covers_all(build: Build) -> None:
    model = build(readout="last").train()
    ids, up = torch.randint(37, (2, 4)), torch.randn(2, 4, 37, dtype=torch.float64)
    full = gradients(model, model(ids, LOOPS), up)
    for last in (LOOPS, LOOPS + 5):
        same_gradients(gradients(model, model(ids, LOOPS, backprop_loops=last), up), full)
    some = gradients(model, model(ids, LOOPS, backprop_loops=LOOPS - 1), up)
    for name in ("recurrent.block.attn.wqkv.weight", "recurrent.lora.scale.weight"):
        assert not torch.allclose(some[name], full[name], rtol=1e-3, atol=1e-6)
    assert some["recurrent.lora.scale.weight"][0].eq(0).all()  # the first loop's own scale
    assert full["recurrent.lora.scale.weight"][0].ne(0).any()


@torch.no_grad()
def test_backprop_loops_means_nothing_without_gradients(build: Build) -> None:
    model, ids = build(), torch.randint(37, (2, 4))
    got = model(ids, LOOPS, backprop_loops=1)
    assert torch.equal(got, model(ids, LOOPS))
    assert not got.requires_grad
    assert not torch.is_grad_enabled()
