"""The loop's own call form, its argument checks and its records."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CacheError, InputError, MythosError
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.loop.recurrent import RecurrentBlock, check_loops
from open_mythos.nn.rotary import precompute_rope_freqs, rotary


Parts = tuple[RecurrentBlock, torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture
def parts(any_config: MythosConfig, randomised: Any) -> Parts:
    loop = randomised(RecurrentBlock(any_config).double().eval())
    h, e = torch.randn(2, 2, 6, any_config.dim, dtype=torch.float64)
    freqs = precompute_rope_freqs(any_config.rope_dim, 20, any_config.rope_theta)
    return loop, h, e, freqs


def causal(length: int) -> torch.Tensor:
    return torch.full((1, 1, length, length), float("-inf"), dtype=torch.float64).triu(1)


def run(loop: RecurrentBlock, h: torch.Tensor, e: torch.Tensor, n_loops: int) -> Any:
    where = rotary(torch.arange(h.shape[1]), loop.cfg.rope_dim, loop.cfg.rope_theta)
    return loop.run(h, e, AttentionContext(where), n_loops)


@torch.no_grad()
def test_the_published_call_form_equals_run(parts: Parts) -> None:
    loop, h, e, freqs = parts
    want, _ = run(loop, h, e, 3)
    torch.testing.assert_close(loop(h, e, freqs, causal(6), 3), want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loop(h, e, freqs, causal(6)), want, rtol=1e-9, atol=1e-9)
    cache: dict[str, Any] = {}
    got = [loop(h[:, :4], e[:, :4], freqs, causal(4), 3, cache)]
    got += [loop(h[:, i : i + 1], e[:, i : i + 1], freqs[i:], None, 3, cache) for i in (4, 5)]
    torch.testing.assert_close(torch.cat(got, dim=1), want, rtol=1e-9, atol=1e-9)
    assert set(cache) == {f"recurrent_loop_{t}" for t in range(3)}
    assert {t.shape[1] for entry in cache.values() for t in entry.values()} == {6}


@torch.no_grad()
def test_the_records_are_those_of_the_pass(parts: Parts) -> None:
    loop, h, e, _ = parts
    states: list[torch.Tensor] = []
    original = loop.turn

    def turn(*args: Any, **kwargs: Any) -> Any:
        out = original(*args, **kwargs)
        states.append(out[0])
        return out

    loop.turn = turn
    _, trace = run(loop, h, e, 4)
    assert trace.n_loops == len(states)
    rms = torch.stack([s.square().mean().sqrt() for s in states])
    torch.testing.assert_close(trace.state_rms.double(), rms, rtol=1e-5, atol=1e-6)
    assert trace.router_load.shape == (trace.n_loops, loop.cfg.n_experts)
    assert trace.loops_used.dtype == torch.int64
    if trace.halting is not None:
        p = torch.stack([loop.act(s) for s in states])
        torch.testing.assert_close(trace.halting, p)


@pytest.mark.parametrize("loops", [1, 3])
@torch.no_grad()
def test_another_number_of_loops_is_refused_by_a_filled_dict(
    loops: int, tiny_config: Callable[..., MythosConfig]
) -> None:
    """With more loops the new slots would not know the past; with fewer the old would miss it."""
    cfg = tiny_config()
    loop = RecurrentBlock(cfg).eval()
    h, freqs = torch.randn(1, 6, cfg.dim), precompute_rope_freqs(cfg.rope_dim, 20)
    cache: dict[str, Any] = {}
    loop(h, h, freqs, causal(6), 2, cache)
    with pytest.raises(CacheError):
        loop(h[:, :1], h[:, :1], freqs[6:], None, loops, cache)


@pytest.mark.parametrize("value", [0, -1, True, False, 2.0, "3", [2]])
def test_what_is_no_number_of_loops_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="n_loops") as caught:
        check_loops(value, 4)
    assert isinstance(caught.value, MythosError)
    assert repr(value) in str(caught.value)


def test_none_is_the_configured_number() -> None:
    assert check_loops(None, 4) == 4
    assert check_loops(9, 4) == 9


def test_without_its_parts_the_loop_has_fewer_parameters(
    tiny_config: Callable[..., MythosConfig],
) -> None:
    full = RecurrentBlock(tiny_config())
    bare = RecurrentBlock(tiny_config(loop_lora=False, injection="add"))
    assert full.lora is not None
    assert bare.lora is None
    names = {n for n, _ in full.named_parameters()} - {n for n, _ in bare.named_parameters()}
    assert names
    assert all(n.startswith(("lora.", "injection.")) for n in names)
