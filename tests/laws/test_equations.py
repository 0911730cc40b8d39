"""The network equals its definition: one position at a time, with every switch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos


Build = Callable[..., OpenMythos]


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def check(model: OpenMythos, slow: Any, n_loops: int, split: list[int]) -> None:
    """Logits and records of the whole pass, and of both kinds of cache, against the definition."""
    length = sum(split)
    ids = torch.randint(model.cfg.vocab_size, (2, length))
    want = [slow(model, row.tolist(), n_loops) for row in ids]
    logits = torch.stack([w.logits for w in want])
    out = model(ids, n_loops, return_output=True)
    close(out.logits, logits)
    used = torch.tensor([w.used for w in want])
    assert torch.equal(out.loops_used, used)
    may_stop = model.cfg.readout != "last"
    assert out.n_loops == (int(used.max()) if may_stop else n_loops)
    loads = torch.tensor([[w.loads[t] for t in range(out.n_loops)] for w in want]).sum(0)
    assert torch.equal(out.router_load, loads)
    rms = torch.tensor([w.squares for w in want]).mean(dim=(0, 1)).sqrt()
    torch.testing.assert_close(out.state_rms, rms[: out.n_loops], rtol=1e-4, atol=1e-5)
    if may_stop:
        weights = torch.tensor([w.weights for w in want], dtype=torch.float64)
        close(out.halting_weights, weights.permute(2, 0, 1)[: out.n_loops])
        assert weights[..., out.n_loops :].eq(0).all()
        remainder = torch.tensor([w.remainder for w in want], dtype=torch.float64)
        close(out.ponder_cost, (used + remainder).mean())
    else:
        assert out.halting is out.halting_weights is out.ponder_cost is None
    for cache in (model.new_cache(2, length), {}):
        parts, start = [], 0
        for count in split:
            parts.append(model(ids[:, start : start + count], n_loops, cache))
            start += count
        close(torch.cat(parts, dim=1), logits)


@pytest.mark.parametrize(("split", "threshold"), [([2, 1, 1], 0.55), ([1, 2], 0.9)])
def test_every_attention_readout_halted_and_injection(
    any_config: MythosConfig, split: list[int], threshold: float, build: Build, slow: Any
) -> None:
    any_config.act_threshold = threshold
    check(build(any_config), slow, 3, split)


@settings(max_examples=15)
@given(
    changes=st.fixed_dictionaries(
        {
            "attn_type": st.sampled_from(["gqa", "mla"]),
            "readout": st.sampled_from(["act", "last", "act_last", "act_sum"]),
            "halted": st.sampled_from(["continue", "freeze"]),
            "injection": st.sampled_from(["lti", "add"]),
            "loop_index": st.booleans(),
            "loop_index_scale": st.sampled_from([1.0, 0.3]),
            "loop_lora": st.booleans(),
            "max_loop_iters": st.integers(1, 4),
            "act_threshold": st.sampled_from([0.2, 0.6, 0.9, 1.0]),
            "prelude_layers": st.integers(0, 2),
            "coda_layers": st.integers(0, 2),
            "n_shared_experts": st.integers(0, 2),
            "n_experts_per_tok": st.integers(1, 3),
            "n_kv_heads": st.sampled_from([1, 2, 4]),
            "dim": st.sampled_from([16, 24]),
        }
    ),
    n_loops=st.integers(1, 4),
    split=st.lists(st.integers(1, 3), min_size=1, max_size=2),
)
def test_every_other_switch(
    changes: dict[str, Any], n_loops: int, split: list[int], build: Build, slow: Any
) -> None:
    check(build(**changes), slow, n_loops, split)


def compare_gradients(model: OpenMythos, slow: Any) -> None:
    """Every parameter's gradient, against the definition's."""
    ids = torch.randint(model.cfg.vocab_size, (1, 3))
    up = torch.randn(3, model.cfg.vocab_size, dtype=torch.float64)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    ours = torch.autograd.grad(
        (model(ids, 3)[0] * up).sum(), list(named.values()), allow_unused=True
    )
    theirs = torch.autograd.grad(
        (slow(model, ids[0].tolist(), 3).logits * up).sum(),
        list(named.values()),
        allow_unused=True,
    )
    for name, a, b in zip(named, ours, theirs, strict=True):
        a, b = (torch.zeros_like(named[name]) if g is None else g for g in (a, b))
        torch.testing.assert_close(
            a, b, rtol=1e-8, atol=1e-9 * (1 + b.abs().max().item()), msg=lambda m, n=name: n + m
        )


PARTS = {
    "injection": st.sampled_from(
        ["lti", "lti_first", "add", "none", "concat_linear", "damped", "substep", "hyper"]
    ),
    "input_write": st.sampled_from(["free", "euler", "zoh"]),
    "damping": st.sampled_from([0.5, 1.0]),
    "streams": st.integers(1, 3),
    "loop_norm": st.sampled_from(["none", "pre", "post", "sandwich"]),
    "block_norm": st.sampled_from(["pre", "post", "sandwich", "pre_post"]),
    "initial_state": st.sampled_from(["input", "zeros", "noise", "learned"]),
    "prelude_norm": st.booleans(),
    "coda_input": st.sampled_from(["plain", "norm", "linear"]),
    "last_norm": st.booleans(),
    "core_layers": st.integers(1, 3),
    "core_ffn": st.sampled_from(["moe", "dense"]),
    "untied_attention": st.booleans(),
    "loops_beyond": st.sampled_from(["continue", "hold", "cycle"]),
    "loop_index_dim": st.sampled_from([None, 0, 7, 16]),
    "max_loop_iters": st.integers(1, 3),
    "readout": st.sampled_from(["act", "last"]),
    "halted": st.sampled_from(["continue", "freeze"]),
    "attn_type": st.sampled_from(["gqa", "mla"]),
    "act_threshold": st.sampled_from([0.5, 0.9]),
}


@settings(max_examples=12)
@given(
    changes=st.fixed_dictionaries(PARTS),
    switches=st.tuples(st.booleans(), st.booleans()),
    n_loops=st.integers(1, 4),
    split=st.lists(st.integers(1, 2), min_size=1, max_size=2),
)
def test_every_part_of_the_loop(
    changes: dict[str, Any],
    switches: tuple[bool, bool],
    n_loops: int,
    split: list[int],
    build: Build,
    slow: Any,
) -> None:
    matrix, router = switches
    changes["input_matrix"] = matrix and changes["injection"] in ("lti", "lti_first")
    changes["untied_router"] = router and changes["core_ffn"] == "moe"
    check(build(**changes), slow, n_loops, split)


@settings(max_examples=5)
@given(changes=st.fixed_dictionaries(PARTS), router=st.booleans())
def test_gradients_of_every_part(
    changes: dict[str, Any], router: bool, build: Build, slow: Any
) -> None:
    changes["untied_router"] = router and changes["core_ffn"] == "moe"
    changes["initial_state"] = changes["initial_state"].replace("noise", "zeros")
    compare_gradients(build(**changes).train(), slow)


def test_gradients_are_those_of_the_definition(
    any_config: MythosConfig, build: Build, slow: Any
) -> None:
    """Through the halting weights and the frozen keys too."""
    any_config.act_threshold = 0.6
    compare_gradients(build(any_config).train(), slow)
