"""One layer called by itself with a dict, as public tutorials do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CacheError, ShapeError
from open_mythos.nn.attention.gqa import GQAttention
from open_mythos.nn.attention.mla import MLAttention
from open_mythos.nn.rotary import precompute_rope_freqs


@pytest.fixture
def layer(
    attn_type: str, tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]
) -> Any:
    cfg = tiny_config(attn_type=attn_type)
    attn: nn.Module = MLAttention(cfg) if attn_type == "mla" else GQAttention(cfg)
    return randomised(attn.double())


def causal(length: int) -> torch.Tensor:
    return torch.full((1, 1, length, length), float("-inf"), dtype=torch.float64).triu(1)


@pytest.mark.parametrize("split", [[5], [1, 1, 1, 1, 1], [2, 3], [3, 1, 1]])
def test_chunks_through_a_dict_equal_the_whole(layer: Any, split: list[int]) -> None:
    x = torch.randn(2, 5, layer.cfg.dim, dtype=torch.float64)
    freqs = precompute_rope_freqs(layer.cfg.rope_dim, 40, layer.cfg.rope_theta)
    whole = layer(x, freqs, causal(5))
    cache: dict[str, Any] = {}
    parts, start = [], 0
    for count in split:
        chunk = x[:, start : start + count]
        mask = causal(count) if count > 1 else None
        parts.append(layer(chunk, freqs[start:], mask, cache, "mine"))
        start += count
        assert list(cache) == ["mine"]
        assert {t.shape[:2] for t in cache["mine"].values()} == {(2, start)}
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-9, atol=1e-9)


def test_entry_names_of_the_public_design(layer: Any) -> None:
    cache: dict[str, Any] = {}
    freqs = precompute_rope_freqs(layer.cfg.rope_dim, 3, layer.cfg.rope_theta)
    layer(torch.randn(1, 3, layer.cfg.dim, dtype=torch.float64), freqs, None, cache)
    assert list(cache) == ["default"]
    if layer.cfg.attn_type == "gqa":
        assert set(cache["default"]) == {"k", "v"}
    else:
        numbers = sum(t.numel() for t in cache["default"].values())
        assert numbers == 3 * (layer.cfg.kv_lora_rank + layer.cfg.qk_rope_head_dim)


def test_two_keys_are_two_layers(layer: Any) -> None:
    x = torch.randn(1, 3, layer.cfg.dim, dtype=torch.float64)
    freqs = precompute_rope_freqs(layer.cfg.rope_dim, 9, layer.cfg.rope_theta)
    cache: dict[str, Any] = {}
    one = layer(x, freqs, None, cache, "a")
    two = layer(x, freqs, None, cache, "b")
    assert torch.equal(one, two)
    assert set(cache) == {"a", "b"}


def test_more_positions_than_the_first_room_holds(layer: Any) -> None:
    x = torch.randn(1, 150, layer.cfg.dim, dtype=torch.float64)
    freqs = precompute_rope_freqs(layer.cfg.rope_dim, 150, layer.cfg.rope_theta)
    whole = layer(x, freqs, causal(150))
    cache: dict[str, Any] = {}
    parts = [layer(x[:, i : i + 30], freqs[i:], causal(30), cache) for i in range(0, 150, 30)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-9, atol=1e-9)


def test_another_batch_is_refused(layer: Any) -> None:
    freqs = precompute_rope_freqs(layer.cfg.rope_dim, 9, layer.cfg.rope_theta)
    cache: dict[str, Any] = {}
    layer(torch.randn(2, 3, layer.cfg.dim, dtype=torch.float64), freqs, None, cache)
    with pytest.raises(CacheError, match="rows"):
        layer(torch.randn(3, 1, layer.cfg.dim, dtype=torch.float64), freqs[3:], None, cache)


def test_another_layers_entry_is_refused(layer: Any) -> None:
    freqs = precompute_rope_freqs(layer.cfg.rope_dim, 9, layer.cfg.rope_theta)
    x = torch.randn(2, 1, layer.cfg.dim, dtype=torch.float64)
    with pytest.raises(CacheError, match="mine"):
        layer(x, freqs, None, {"mine": {"odd": torch.zeros(2, 3, 4)}}, "mine")


def test_a_failing_call_leaves_the_entry_as_it_was(layer: Any) -> None:
    freqs = precompute_rope_freqs(layer.cfg.rope_dim, 9, layer.cfg.rope_theta)
    x = torch.randn(2, 3, layer.cfg.dim, dtype=torch.float64)
    cache: dict[str, Any] = {}
    layer(x, freqs, None, cache)
    want = layer(x[:, :1], freqs[3:], None, {k: dict(v) for k, v in cache.items()})
    with pytest.raises(ShapeError):
        layer(x, freqs[3:], torch.zeros(2, 2), cache)
    assert {t.shape[1] for t in cache["default"].values()} == {3}
    torch.testing.assert_close(layer(x[:, :1], freqs[3:], None, cache), want)
