"""One answer, however the tokens arrive: cached, in chunks, in a batch, absorbed or expanded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, strategies as st
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.attention.mla import MLAttention


Build = Callable[..., OpenMythos]


def random_split(length: int) -> list[int]:
    """Chunk lengths of a random composition of `length`."""
    cuts = [i for i in range(1, length) if torch.rand(()) < 0.5]
    return [b - a for a, b in zip([0, *cuts], [*cuts, length], strict=True)]


def in_chunks(model: OpenMythos, ids: Tensor, split: list[int], cache: Any, loops: int) -> Tensor:
    parts, start = [], 0
    for count in split:
        parts.append(model(ids[:, start : start + count], loops, cache))
        start += count
    return torch.cat(parts, dim=1)


def set_form(model: OpenMythos, form: str) -> None:
    for module in model.modules():
        if isinstance(module, MLAttention):
            module.form = form


@torch.no_grad()
def ways(model: OpenMythos, ids: Tensor, loops: int) -> Iterator[tuple[str, Tensor]]:
    """The logits of `ids`, arrived at in every way there is."""
    batch, length = ids.shape
    yield "one by one", in_chunks(model, ids, [1] * length, model.new_cache(batch, length), loops)
    yield "chunks", in_chunks(model, ids, random_split(length), {}, loops)
    yield (
        "chunks, typed",
        in_chunks(model, ids, random_split(length), model.new_cache(batch, length), loops),
    )
    yield "rows alone", torch.cat([model(row.unsqueeze(0), loops) for row in ids])
    if model.cfg.attn_type == "mla":
        for form in ("absorbed", "expanded"):
            set_form(model, form)
            yield f"{form}, chunks", in_chunks(model, ids, random_split(length), {}, loops)
        set_form(model, "auto")


@pytest.mark.parametrize(
    "parts",
    [{"attention_bias": True}, {"qk_norm": True}, {"head_width": 6}, {"tied_head": False}],
    ids=str,
)
def test_cached_equals_uncached_with_parts_of_pretrained_models(
    tiny_config: Callable[..., MythosConfig], build: Build, parts: dict[str, Any]
) -> None:
    model = build(tiny_config(attn_type="gqa", core_ffn="dense", core_layers=2, **parts))
    ids = torch.randint(0, model.cfg.vocab_size, (2, 7))
    with torch.no_grad():
        want = model(ids, 3)
    for way, found in ways(model, ids, 3):
        torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-9, msg=way)
    told = {"max_new_tokens": 4, "n_loops": 3, "temperature": 0.0}
    assert torch.equal(model.generate(ids, **told), model.generate(ids, **told, static=True))


@pytest.mark.parametrize("loop_index", [True, False])
@pytest.mark.parametrize("loop_lora", [True, False])
@torch.no_grad()
def test_every_way_agrees_in_float64(
    any_config: MythosConfig, loop_index: bool, loop_lora: bool, build: Build
) -> None:
    cfg = replace(any_config, loop_index=loop_index, loop_lora=loop_lora)
    model = build(cfg)
    loops = int(torch.randint(1, 5, ()))
    ids = torch.randint(cfg.vocab_size, (2, int(torch.randint(2, 6, ()))))
    whole = model(ids, loops)
    for name, got in ways(model, ids, loops):
        torch.testing.assert_close(
            got, whole, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


@contextmanager
def router_margins(model: OpenMythos) -> Iterator[list[float]]:
    """Collects how far the least picked expert is ahead of the best that is not picked."""
    ffn, margins = model.recurrent.block.ffn, [float("inf")]

    def look(_: Any, __: Any, logits: Tensor) -> None:
        ranked = (logits + ffn.router_bias).sort(dim=-1, descending=True).values
        if ranked.shape[-1] > ffn.topk:
            margins.append((ranked[:, ffn.topk - 1] - ranked[:, ffn.topk]).min().item())

    handle = ffn.router.register_forward_hook(look)
    try:
        yield margins
    finally:
        handle.remove()


def halting_margin(out: Any, threshold: float) -> float:
    """How near any position's running sum comes to the threshold before it halts."""
    if out.halting is None:
        return float("inf")
    steps = torch.arange(len(out.halting)).view(-1, 1, 1)
    near = (out.halting.cumsum(0) - threshold).abs()
    return near[steps < out.loops_used].min().item()


@given(
    attn_type=st.sampled_from(["gqa", "mla"]),
    readout=st.sampled_from(["act", "last", "act_last", "act_sum"]),
    halted=st.sampled_from(["continue", "freeze"]),
    injection=st.sampled_from(["lti", "add"]),
    loops=st.integers(1, 4),
    length=st.integers(2, 7),
)
@torch.no_grad()
def test_every_way_agrees_in_float32_away_from_ties(
    attn_type: str,
    readout: str,
    halted: str,
    injection: str,
    loops: int,
    length: int,
    build: Build,
) -> None:
    """Near a tie in the router or at the threshold, rounding may rightly pick the other side."""
    model = build(attn_type=attn_type, readout=readout, halted=halted, injection=injection).float()
    ids = torch.randint(model.cfg.vocab_size, (2, length))
    with router_margins(model) as margins:
        out = model(ids, loops, return_output=True)
    assume(min(margins) > 1e-4)
    assume(halting_margin(out, model.cfg.act_threshold) > 1e-4)
    scale = out.logits.abs().max().item()
    for name, got in ways(model, ids, loops):
        torch.testing.assert_close(
            got, out.logits, rtol=1e-5, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@torch.no_grad()
def test_a_cache_follows_position_ids(attn_type: str, build: Build) -> None:
    model = build(attn_type=attn_type)
    ids = torch.randint(model.cfg.vocab_size, (2, 5))
    where = torch.tensor([[0, 2, 3, 9, 11], [4, 5, 6, 7, 8]])
    whole = model(ids, 2, position_ids=where)
    cache = model.new_cache(2, 5)
    got = [
        model(ids[:, :3], 2, cache, position_ids=where[:, :3]),
        model(ids[:, 3:], 2, cache, position_ids=where[:, 3:]),
    ]
    torch.testing.assert_close(torch.cat(got, dim=1), whole, rtol=1e-9, atol=1e-9)
    shifted = model(ids, 2, position_ids=where + 7)  # differences are what counts
    torch.testing.assert_close(shifted, whole, rtol=1e-5, atol=1e-5)
    plain = model(ids, 2)
    assert not torch.allclose(plain[0], whole[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("keep", [0, 1, 3, 5, 9])
def test_kept_logits_are_the_last_of_all(attn_type: str, keep: int, build: Build) -> None:
    model = build(attn_type=attn_type)
    ids = torch.randint(model.cfg.vocab_size, (2, 5))
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    full = model(ids, 3, attention_mask=mask, return_output=True)
    out = model(ids, 3, attention_mask=mask, logits_to_keep=keep, return_output=True)
    assert out.logits.shape == (2, min(keep, 5), model.cfg.vocab_size)
    torch.testing.assert_close(out.logits, full.logits[:, max(5 - keep, 0) :], rtol=1e-9, atol=1e-9)
    assert torch.equal(out.features, full.features)  # the rest of the pass is run all the same
    alone = model(ids, 3, attention_mask=mask, logits_to_keep=keep)  # asks the coda for no more
    torch.testing.assert_close(alone, out.logits, rtol=1e-9, atol=1e-9)
    if keep:
        up = torch.randn_like(out.logits)
        wanted = [p for p in model.parameters() if p.requires_grad]
        ours = torch.autograd.grad((out.logits * up).sum(), wanted, allow_unused=True)
        cut = full.logits[:, max(5 - keep, 0) :]
        theirs = torch.autograd.grad((cut * up).sum(), wanted, allow_unused=True)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@torch.no_grad()
def test_a_cache_is_filled_whatever_logits_are_kept(attn_type: str, build: Build) -> None:
    model = build(attn_type=attn_type)
    ids = torch.randint(model.cfg.vocab_size, (2, 6))
    whole = model(ids, 2)
    for cache in (model.new_cache(2, 6), {}):
        assert model(ids[:, :4], 2, cache, logits_to_keep=0).numel() == 0
        got = model(ids[:, 4:], 2, cache, logits_to_keep=1)
        torch.testing.assert_close(got, whole[:, -1:], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_more_loops_than_configured_and_a_growing_dict(build: Build) -> None:
    model = build(max_loop_iters=2, max_seq_len=100)
    ids = torch.randint(model.cfg.vocab_size, (1, 100))
    whole = model(ids, 4)
    got = in_chunks(model, ids, [40, 1, 40, 19], {}, 4)
    torch.testing.assert_close(got, whole, rtol=1e-9, atol=1e-9)
