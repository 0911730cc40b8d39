"""What runs by default learns as the definitions do: fifty steps from one seed, loss by loss."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.batch import IGNORE, Batch
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.attention import gqa, mla
from open_mythos.nn.moe.layer import MoEFFN
from open_mythos.ops import rows
from open_mythos.ops.attend import attend
from open_mythos.ops.head_loss import head_loss
from open_mythos.parallel import spread
from open_mythos.train.build import build_state
from open_mythos.train.recipe import (
    DataConfig,
    DepthConfig,
    EngineConfig,
    ObjectiveConfig,
    OptimConfig,
    Recipe,
)
from open_mythos.train.step import train_step


STEPS = 50
VOCAB, ROWS, LENGTH = 32, 2, 12
FURTHEST = 1e-4  # nats


class Sums:
    """The running sum of what was read, modulo the vocabulary; the first two are not asked."""

    vocab_size, max_level = VOCAB, 0

    def batch(self, step: int, level: int = 0) -> Batch:
        draw = torch.Generator().manual_seed(step)
        ids = torch.randint(4, (ROWS, LENGTH), generator=draw)
        targets = ids.cumsum(1) % VOCAB
        targets[:, :2] = IGNORE
        return Batch(ids, targets)


def recipe(attn_type: Any, readout: Any, device: str) -> Recipe:
    return Recipe(
        name="law",
        model=MythosConfig(
            vocab_size=VOCAB, dim=32, n_heads=4, n_kv_heads=2, max_seq_len=32, max_loop_iters=4,
            prelude_layers=1, coda_layers=1, attn_type=attn_type, kv_lora_rank=16, q_lora_rank=16,
            qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, n_experts=4, n_shared_experts=1,
            n_experts_per_tok=2, expert_dim=16, lora_rank=4, readout=readout, dense_hidden=64,
        ),
        data=DataConfig(kind="parity", length=LENGTH),
        depth=DepthConfig(kind="poisson", mean=3, min=1, max=5),
        optim=OptimConfig(lr=3e-3, warmup_steps=5),
        objective=ObjectiveConfig(z_loss=1e-3, ponder=1e-2 if readout == "act" else 0.0),
        steps=STEPS,
        device=device,
    )  # fmt: skip


def losses(of: Recipe) -> list[float]:
    state = build_state(of, Sums(), torch.device(of.device), lambda r: OpenMythos(r.model))
    return [train_step(state, Sums(), of).loss for _ in range(of.steps)]


def written_out(monkeypatch: pytest.MonkeyPatch, experts: str) -> None:
    """Let everything that has a faster way run by its definition, and say so if it does not."""
    for module in (gqa, mla):
        monkeypatch.setattr(module, "attend", partial(attend, backend="reference"))
    monkeypatch.setattr(spread, "head_loss", partial(head_loss, backend="reference"))
    monkeypatch.setattr(MoEFFN, "experts_backend", experts)
    monkeypatch.setattr(rows, "HAS_TRITON", False)


def assert_alike(fast: list[float], plain: list[float]) -> None:
    assert len(fast) == len(plain) == STEPS
    assert sum(plain[-5:]) < 0.95 * sum(plain[:5])  # there was something to learn
    apart = [abs(a - b) for a, b in zip(fast, plain, strict=True)]
    assert max(apart) <= FURTHEST, (max(apart), apart.index(max(apart)))


@pytest.mark.parametrize(
    ("attn_type", "readout", "experts"),
    [
        pytest.param("gqa", "act", "reference", marks=pytest.mark.slow),
        pytest.param("mla", "last", "reference", marks=pytest.mark.slow),
        ("mla", "act", "loop"),
    ],
)
def test_the_default_path_learns_as_the_definitions_do(
    attn_type: str, readout: str, experts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = recipe(attn_type, readout, "cpu")
    fast = losses(given)
    written_out(monkeypatch, experts)
    plain = losses(given)
    assert fast != plain  # two ways were gone
    assert_alike(fast, plain)


@pytest.mark.slow
def test_keeping_less_of_each_loop_learns_the_same() -> None:
    given = recipe("gqa", "act", "cpu")
    again = replace(given, engine=EngineConfig(checkpoint=True))
    assert_alike(losses(again), losses(given))


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.timeout(600)  # Inductor compiles two graphs, forth and back
@pytest.mark.filterwarnings("ignore")  # its advice (TF32 and the like) is not ours to take here
@pytest.mark.parametrize(("attn_type", "readout"), [("gqa", "act"), ("mla", "last")])
def test_kernels_and_compiler_learn_as_the_definitions_do(
    attn_type: str, readout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = recipe(attn_type, readout, "cuda")
    torch._dynamo.reset()
    fast = losses(replace(given, engine=EngineConfig(compile=True)))
    torch._dynamo.reset()
    written_out(monkeypatch, "loop")
    assert_alike(fast, losses(given))
