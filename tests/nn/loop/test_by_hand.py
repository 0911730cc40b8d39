"""The loop in its published call form, where the core has several layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CacheError
from open_mythos.nn.loop.recurrent import RecurrentBlock
from open_mythos.nn.rotary import precompute_rope_freqs


@torch.no_grad()
def test_chunks_in_a_dict_say_what_the_whole_says(
    attn_type: str, tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]
) -> None:
    cfg = tiny_config(core_layers=2, attn_type=attn_type, readout="last")
    loop = randomised(RecurrentBlock(cfg).double().eval())
    h, e = torch.randn(2, 2, 5, cfg.dim, dtype=torch.float64)
    freqs = precompute_rope_freqs(cfg.rope_dim, 20, cfg.rope_theta)
    mask = torch.full((1, 1, 5, 5), float("-inf"), dtype=torch.float64).triu(1)
    want = loop(h, e, freqs, mask, 2)
    held: dict[str, Any] = {}
    got = [loop(h[:, i : i + 1], e[:, i : i + 1], freqs[i:], None, 2, held) for i in range(5)]
    torch.testing.assert_close(torch.cat(got, dim=1), want, rtol=1e-9, atol=1e-9)
    assert set(held) == {"recurrent_loop_0", "recurrent_loop_1"}
    assert set(held["recurrent_loop_0"]) == set(cfg.loop_widths)
    with pytest.raises(CacheError, match="filled with 2 loops, the call asks for 3"):
        loop(h[:, :1], e[:, :1], freqs, None, 3, held)
