"""Layers alone: every implementation, and FLOPs that follow from the shapes."""

import pytest
import torch

from open_mythos.bench.clock import Clock
from open_mythos.bench.suite import Setting
from open_mythos.bench.suites.layers import attention, both_ways, moe


@pytest.mark.parametrize("attn_type", ["gqa"])  # which experts do not depend on
def test_every_experts_backend_and_the_dense_twin_are_timed(setting: Setting) -> None:
    rows = {row.who: row for case in moe(setting) for row in case.run()}
    assert {"auto", "loop", "dense twin"} <= set(rows)
    assert not {"dense", "reference"} & set(rows)
    assert ("open-mythos 0.5.0" in rows) == (setting.peer is not None)
    cfg, size = setting.size.model, setting.size
    flops = 6 * size.batch * size.seq_len * cfg.dim * cfg.expert_dim * cfg.n_experts_per_tok
    for row in rows.values():
        for way, times in (("forward", 1), ("both", 3)):
            done = row.figures[f"{way}_tflops"].value * row.figures[way].value * 1e9
            assert done == pytest.approx(times * flops)


def test_the_attention_core_is_timed_by_implementation(setting: Setting) -> None:
    rows = [row for case in attention(setting) for row in case.run()]
    assert {"sdpa", "auto", "reference"} <= {row.who for row in rows}
    assert len({row.case for row in rows}) == 1


def test_both_ways_leave_the_last_gradient_alone() -> None:
    x = torch.randn(4, 4, requires_grad=True)
    clock = Clock(torch.device("cpu"))
    both_ways(clock, lambda: x * 3, torch.ones(4, 4), [x], (1.0, 3.0))
    assert x.grad is not None
    assert x.grad.tolist() == [[3.0] * 4] * 4  # of one pass, not of all of them
