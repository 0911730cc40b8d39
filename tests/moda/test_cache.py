"""The MoDA cache holds sequence keys and values, and nothing of the depth."""

from collections.abc import Callable

import pytest
import torch

from open_mythos.errors import CacheError
from open_mythos.moda import MoDACache, MoDAConfig, MoDAModel


@pytest.mark.parametrize("depth_from", ["ffn", "attention", "both"])
def test_it_is_as_large_as_that_of_a_plain_transformer(
    depth_from: str, tiny: Callable[..., MoDAConfig]
) -> None:
    model = MoDAModel(tiny(depth_from=depth_from))
    cache = model.new_cache(2, 7)
    assert cache.nbytes == 3 * 2 * (2 * 7) * 2 * 6 * 4  # layers, k and v, places, heads, d, bytes
    assert (cache.capacity, cache.length, len(cache.layers)) == (7, 0, 3)
    with torch.no_grad():
        model(torch.zeros(2, 4, dtype=torch.int64), cache=cache)
    assert cache.length == 4
    assert all(layer.length == 4 for layer in cache.layers)


@pytest.mark.parametrize(
    ("batch", "capacity", "words"), [(0, 4, "batch"), (1, 0, "capacity"), (1, 33, "max_seq_len")]
)
def test_sizes_that_cannot_be_are_refused(
    batch: int, capacity: int, words: str, tiny: Callable[..., MoDAConfig]
) -> None:
    with pytest.raises(CacheError, match=words):
        MoDACache(tiny(), batch, capacity)


@pytest.mark.parametrize(
    ("field", "value"), [("rope_base", 7.0), ("depth_from", "both"), ("n_layers", 2)]
)
def test_what_a_cached_number_depends_on_is_compared(
    field: str, value: object, tiny: Callable[..., MoDAConfig]
) -> None:
    cache, like = MoDACache(tiny(), 1, 4), torch.zeros(1)
    cache.check(tiny(vocab_size=99), 1, like)
    with pytest.raises(CacheError, match=field):
        cache.check(tiny(**{field: value}), 1, like)
    with pytest.raises(CacheError, match="rows"):
        cache.check(tiny(), 2, like)
    with pytest.raises(CacheError, match="float32"):
        cache.check(tiny(), 1, like.double())


def test_truncate_forgets_and_does_not_invent(tiny: Callable[..., MoDAConfig]) -> None:
    cache = MoDACache(tiny(), 1, 4)
    cache.advance(3)
    cache.truncate(1)
    assert [layer.length for layer in cache.layers] == [1, 1, 1]
    for wrong in (2, -1):
        with pytest.raises(CacheError, match="truncate"):
            cache.truncate(wrong)
