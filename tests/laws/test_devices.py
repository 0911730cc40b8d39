"""An accelerator gives what the CPU gives; run where there is one: `pytest -m gpu`."""

import pytest
import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.ops.experts import run_experts


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def pair(attn_type: str, **changes: object) -> tuple[OpenMythos, OpenMythos, Tensor]:
    """The same randomised model on the CPU and on the device, and ids for both."""
    cfg = MythosConfig(
        vocab_size=97, dim=64, n_heads=4, n_kv_heads=2, max_seq_len=64, max_loop_iters=4,
        prelude_layers=1, coda_layers=1, attn_type=attn_type, kv_lora_rank=32, q_lora_rank=32,
        qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=16, n_experts=8, n_shared_experts=1,
        n_experts_per_tok=2, expert_dim=32, lora_rank=4, act_threshold=0.9, **changes,
    )  # fmt: skip
    model = OpenMythos(cfg).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    twin = OpenMythos(cfg).eval()
    twin.load_state_dict(model.state_dict())
    return model, twin.cuda(), torch.randint(97, (3, 17))


@pytest.mark.parametrize("attn_type", ["gqa", "mla"])
@pytest.mark.parametrize("halted", ["continue", "freeze"])
def test_logits_and_gradients_are_the_cpus(attn_type: str, halted: str) -> None:
    model, twin, ids = pair(attn_type, halted=halted)
    model.double(), twin.double()
    ours, theirs = model(ids, 6), twin(ids.cuda(), 6)
    assert torch.allclose(ours, theirs.cpu(), atol=1e-9)
    ours.square().mean().backward()
    theirs.square().mean().backward()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad.cpu(), atol=1e-9), name


@pytest.mark.parametrize("attn_type", ["gqa", "mla"])
def test_cached_decoding_and_generation_run_there(attn_type: str) -> None:
    model, twin, ids = pair(attn_type)
    model.double(), twin.double()
    there = ids.cuda()
    cache = twin.new_cache(3, 17)
    parts = [twin(there[:, a:b], 5, cache) for a, b in ((0, 9), (9, 10), (10, 17))]
    assert torch.allclose(torch.cat(parts, 1), twin(there, 5), atol=1e-9)
    greedy = model.generate(ids, 8, 4, temperature=0.0)
    assert torch.equal(twin.generate(there, 8, 4, temperature=0.0).cpu(), greedy)


def test_bfloat16_trains_and_stays_near_float64() -> None:
    model, twin, ids = pair("mla")
    exact = model.double()(ids, 4)
    twin.bfloat16().train()
    near = twin(ids.cuda(), 4)
    near.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in twin.parameters())
    error = (near.cpu().double() - exact).norm() / exact.norm()
    assert error < 0.1


def test_grouped_experts_are_the_loop_there() -> None:
    x = torch.randn(300, 64, device="cuda", dtype=torch.bfloat16)
    ids = torch.rand(300, 8, device="cuda").topk(2).indices
    ids[ids == 3] = 4  # an expert without tokens
    weights = torch.rand(300, 2, device="cuda").softmax(-1).bfloat16()
    gate_up = torch.randn(8, 64, 64, device="cuda", dtype=torch.bfloat16) * 0.1
    down = torch.randn(8, 32, 64, device="cuda", dtype=torch.bfloat16) * 0.1
    results = []
    for backend in ("grouped", "loop"):
        given = [t.clone().requires_grad_() for t in (x, weights, gate_up, down)]
        y = run_experts(given[0], ids, given[1], given[2], given[3], backend)
        y.float().square().sum().backward()
        results.append([y, *(t.grad for t in given)])
    for grouped, loop in zip(*results, strict=True):
        assert (grouped - loop).float().norm() <= 0.02 * loop.float().norm()
