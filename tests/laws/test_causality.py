"""Nobody sees the future, the neighbour in the batch, or padding."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos


Build = Callable[..., OpenMythos]
PAD = 0


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_changing_a_token_changes_nothing_before_it(any_config: MythosConfig, build: Build) -> None:
    model = build(any_config)
    ids = torch.randint(1, 37, (2, 5))
    before = model(ids, 3)
    for j in range(5):
        changed = ids.clone()
        changed[:, j] = (changed[:, j] + 5) % 37
        after = model(changed, 3)
        close(after[:, :j], before[:, :j])
        assert not torch.allclose(after[:, j], before[:, j])


@torch.no_grad()
def test_the_past_is_seen(attn_type: str, halted: str, build: Build) -> None:
    model = build(attn_type=attn_type, halted=halted)
    ids = torch.randint(1, 37, (1, 5))
    other = ids.clone()
    other[0, 0] = (other[0, 0] + 5) % 37
    assert not torch.allclose(model(ids, 2)[0, -1], model(other, 2)[0, -1])


@torch.no_grad()
def test_rows_do_not_see_each_other(attn_type: str, halted: str, build: Build) -> None:
    model = build(attn_type=attn_type, halted=halted)
    ids = torch.randint(37, (3, 6))
    other = torch.cat((ids[:1], torch.randint(37, (2, 6))))
    close(model(other, 3)[0], model(ids, 3)[0])
    a, b = model.new_cache(3, 7), model.new_cache(3, 7)
    model(ids, 3, a)
    model(other, 3, b)
    step = torch.randint(37, (3, 1))
    close(model(step, 3, a)[0], model(step, 3, b)[0])


def padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), PAD)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for i, row in enumerate(rows):
        where = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where] = row, 1
    return ids, mask


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_changes_no_real_position(
    any_config: MythosConfig, side: str, build: Build
) -> None:
    model = build(any_config)
    rows = [torch.randint(37, (n,)) for n in (6, 2, 4)]
    ids, mask = padded(rows, side)
    for cache, dtype in ((None, torch.bool), ({}, torch.float32)):
        out = model(ids, 3, cache, attention_mask=mask.to(dtype), return_output=True)
        for i, row in enumerate(rows):
            alone = model(row.unsqueeze(0), 3, return_output=True)
            close(out.logits[i][mask[i] == 1], alone.logits[0])
            assert torch.equal(out.loops_used[i][mask[i] == 1], alone.loops_used[0])
        assert out.logits.isfinite().all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["typed", "dict"])
@torch.no_grad()
def test_decoding_after_a_padded_prompt(
    any_config: MythosConfig, side: str, kind: str, build: Build
) -> None:
    model = build(any_config)
    rows = [torch.randint(37, (n,)) for n in (5, 2, 3)]
    ids, mask = padded(rows, side)
    more = torch.randint(37, (3, 4))
    cache: Any = {} if kind == "dict" else model.new_cache(3, 9)
    model(ids, 3, cache, attention_mask=mask)
    got = [model(more[:, :1], 3, cache)]  # one token, its mask left out: it is real
    whole_mask = torch.cat((mask, torch.ones(3, 3, dtype=torch.int64)), dim=1)
    got.append(model(more[:, 1:3], 3, cache, attention_mask=whole_mask))  # two, all masks given
    got.append(model(more[:, 3:], 3, cache, attention_mask=torch.ones(3, 1)))  # its own mask given
    got = torch.cat(got, dim=1)
    for i, row in enumerate(rows):
        alone = model(torch.cat((row, more[i])).unsqueeze(0), 3)
        close(got[i], alone[0, len(row) :])


@torch.no_grad()
def test_a_prompt_padded_in_chunks(attn_type: str, halted: str, build: Build) -> None:
    """The first chunk is padding only for the short row."""
    model = build(attn_type=attn_type, halted=halted)
    rows = [torch.randint(37, (6,)), torch.randint(37, (2,))]
    ids, mask = padded(rows, "left")
    cache = model.new_cache(2, 6)
    model(ids[:, :5], 3, cache, attention_mask=mask[:, :5])
    last = model(ids[:, 5:], 3, cache, attention_mask=mask[:, 5:])
    for i, row in enumerate(rows):
        close(last[i, 0], model(row.unsqueeze(0), 3)[0, -1])


@torch.no_grad()
def test_what_stands_in_padding_does_not_matter(attn_type: str, halted: str, build: Build) -> None:
    model = build(attn_type=attn_type, halted=halted)
    rows = [torch.randint(37, (5,)), torch.randint(37, (2,))]
    ids, mask = padded(rows, "left")
    noisy = torch.where(mask == 1, ids, torch.randint(37, ids.shape))
    one = model(ids, 3, attention_mask=mask, return_output=True)
    two = model(noisy, 3, attention_mask=mask, return_output=True)
    close(one.logits[mask == 1], two.logits[mask == 1])
    assert torch.equal(one.router_load, two.router_load)
    close(one.state_rms, two.state_rms)
    if one.ponder_cost is not None:
        close(one.ponder_cost, two.ponder_cost)


def test_padding_gets_no_gradient_and_spoils_none(
    attn_type: str, halted: str, build: Build
) -> None:
    model = build(attn_type=attn_type, halted=halted).train()
    rows = [torch.randint(1, 37, (5,)), torch.randint(1, 37, (2,))]
    ids, mask = padded(rows, "left")
    (model(ids, 3, attention_mask=mask)[mask == 1]).square().sum().backward()
    together = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for row in rows:
        model(row.unsqueeze(0), 3).square().sum().backward()
    alone = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(alone) == len(together)
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7 * b.abs().max().item() + 1e-9)


@torch.no_grad()
def test_real_positions_of_a_mask_full_of_ones_equal_no_mask(
    attn_type: str, halted: str, build: Build
) -> None:
    model = build(attn_type=attn_type, halted=halted)
    ids = torch.randint(37, (2, 6))
    one = model(ids, 3, attention_mask=torch.ones(2, 6), return_output=True)
    two = model(ids, 3, return_output=True)
    close(one.logits, two.logits)
    assert torch.equal(one.router_load, two.router_load)
