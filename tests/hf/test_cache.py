"""The cache answers as transformers asks, and holds what a row-by-row cache would."""

from typing import Any

import pytest
import torch

from open_mythos.errors import CacheError
from open_mythos.hf.cache import CACHE_NAME, LoopCache


def filled(model: Any, ids: torch.Tensor) -> LoopCache:
    cache = LoopCache()
    model(ids, **{CACHE_NAME: cache})
    return cache


def next_logits(model: Any, token: torch.Tensor, cache: LoopCache) -> torch.Tensor:
    return model(token, **{CACHE_NAME: cache}).logits


def test_it_counts_layers_once_per_loop(hf_model: Any) -> None:
    model = hf_model()
    empty = LoopCache()
    assert (len(empty), empty.get_seq_length(), empty.batch_size) == (0, 0, -1)
    cache = filled(model, torch.randint(37, (2, 5)))
    assert len(cache) == model.config.num_hidden_layers
    assert (cache.get_seq_length(), cache.batch_size) == (5, 2)
    assert cache.get_mask_sizes(3, 0) == (8, 0)
    assert cache.get_query_offset() == 5
    assert cache.get_max_length() == cache.get_max_cache_shape() == -1
    assert not any(cache.is_linear + cache.is_sliding + cache.is_dummy)
    assert "2 rows, 5 positions" in repr(cache)
    cache.reset()
    assert cache.get_seq_length() == 0


@pytest.mark.parametrize("core_layers", [1, 2])
def test_rows_can_be_reordered_repeated_and_chosen(hf_model: Any, core_layers: int) -> None:
    model = hf_model(core_layers=core_layers)
    ids, token = torch.randint(37, (3, 5)), torch.randint(37, (1, 1))
    want = next_logits(model, token.expand(3, 1), filled(model, ids))
    for change, rows in (
        (lambda c: c.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0]),
        (lambda c: c.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
        (lambda c: c.batch_select_indices(torch.tensor([1])), [1]),
        (lambda c: c.batch_select_indices(torch.tensor([True, False, True])), [0, 2]),
    ):
        cache = filled(model, ids)
        change(cache)
        got = next_logits(model, token.expand(len(rows), 1), cache)
        torch.testing.assert_close(got, want[rows])


def test_padding_moves_with_its_row(hf_model: Any) -> None:
    model, ids, token = hf_model(), torch.randint(37, (2, 5)), torch.randint(37, (2, 1))
    mask = torch.tensor([[0, 0, 1, 1, 1], [1] * 5])
    cache = LoopCache()
    model(ids, attention_mask=mask, **{CACHE_NAME: cache})
    cache.reorder_cache(torch.tensor([1, 0]))
    got = next_logits(model, token, cache)
    alone = next_logits(model, token[1:], filled(model, ids[:1, 2:]))
    torch.testing.assert_close(got[1:], alone)


@pytest.mark.parametrize("count", [-2, torch.tensor(-2)], ids=["int", "tensor"])
def test_cropped_positions_are_forgotten(hf_model: Any, count: Any) -> None:
    model, ids = hf_model(), torch.randint(37, (1, 7))
    cache = filled(model, ids)
    cache.crop(count)
    cache.crop(0)
    assert cache.get_seq_length() == 5
    got = model(ids[:, 5:], **{CACHE_NAME: cache}).logits
    torch.testing.assert_close(got, model(ids).logits[:, 5:])


def test_it_grows_and_an_expected_length_spares_that(hf_model: Any) -> None:
    model, ids = hf_model(), torch.randint(37, (1, 12))
    cache, roomy = LoopCache(), LoopCache(expected=12)
    for at in range(12):
        a = next_logits(model, ids[:, at : at + 1], cache)
        b = next_logits(model, ids[:, at : at + 1], roomy)
        if not at:
            assert roomy.kv is not None
            made = roomy.kv.nbytes
        assert torch.equal(a, b)
    assert roomy.kv.nbytes == made
    torch.testing.assert_close(a[:, 0], model(ids).logits[:, -1])


def test_what_it_cannot_do_is_refused(hf_model: Any) -> None:
    with pytest.raises(CacheError, match="filled by its own network"):
        LoopCache().update(torch.zeros(1), torch.zeros(1), 0)
    with pytest.raises(CacheError, match="not 3"):
        LoopCache().crop(3)
    untouched = LoopCache()
    untouched.reorder_cache(torch.tensor([0]))
    untouched.batch_select_indices(torch.tensor([0]))
    untouched.batch_repeat_interleave(2)
    assert untouched.kv is None
