"""A run small enough to take hundreds of steps a second, with every source of randomness in it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.output import ForwardOutput
from open_mythos.train.recipe import (
    CurriculumConfig,
    DataConfig,
    DepthConfig,
    OptimConfig,
    Recipe,
)
from open_mythos.train.records import MEASURED, EvalRecord, StepRecord
from open_mythos.train.sinks import RunInfo
from open_mythos.train.trainer import Parts


class StandIn(nn.Module):
    """The forward interface of OpenMythos on next to nothing: a looped linear map with dropout.

    `poison` maps calls (counted from 1, training only) to what the logits are multiplied by.
    """

    def __init__(self, cfg: MythosConfig, poison: dict[int, float] | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Embedding(cfg.vocab_size, cfg.dim)
        self.core = nn.Linear(cfg.dim, cfg.dim)
        self.head = nn.Linear(cfg.dim, cfg.vocab_size, bias=False)
        self.head.weight = self.embed.weight
        self.dropout = nn.Dropout(cfg.dropout)
        self.register_buffer("router_bias", torch.zeros(cfg.n_experts))
        self.poison = poison or {}
        self.calls = 0
        self.bias_steps: list[float] = []

    def forward(
        self,
        ids: Tensor,
        n_loops: int | None = None,
        *,
        logits_to_keep: int | None = None,
        backprop_loops: int | None = None,
        return_output: bool = False,
    ) -> Tensor | ForwardOutput:
        loops = n_loops or self.cfg.max_loop_iters
        e = h = self.embed(ids)
        norms = []
        for _ in range(loops):
            h = self.dropout(torch.tanh(self.core(h) + e))
            norms.append(h.detach().square().mean().sqrt())
        if self.training:
            self.calls += 1
            h = h * self.poison.get(self.calls, 1.0)
        logits = self.head(h if logits_to_keep is None else h[:, :logits_to_keep])
        if not return_output:
            return logits
        return ForwardOutput(
            logits=logits,
            features=h,
            n_loops=loops,
            halting=None,
            halting_weights=None,
            loops_used=torch.full(ids.shape, loops),
            ponder_cost=None,
            router_load=torch.ones(loops, self.cfg.n_experts, dtype=torch.int64),
            state_rms=torch.stack(norms),
        )

    def update_router_bias(self, step_size: float | Tensor = 1e-3) -> None:
        self.bias_steps.append(float(step_size))
        self.router_bias += step_size


UNTIMED: dict[str, Any] = dict.fromkeys(MEASURED)

TINY = Recipe(
    name="tiny",
    model=MythosConfig(
        vocab_size=2,
        dim=16,
        n_heads=2,
        n_kv_heads=1,
        max_seq_len=64,
        max_loop_iters=4,
        prelude_layers=1,
        coda_layers=1,
        attn_type="gqa",
        n_experts=3,
        n_shared_experts=1,
        n_experts_per_tok=2,
        expert_dim=8,
        lora_rank=2,
        dropout=0.1,
        dense_hidden=16,
    ),
    data=DataConfig(kind="parity", batch_size=4, length=6),
    depth=DepthConfig(kind="poisson", mean=2, min=1, max=4),
    optim=OptimConfig(lr=1e-2, warmup_steps=3),
    curriculum=CurriculumConfig(threshold=0.5, min_steps=3),
    steps=12,
    eval_every=4,
    save_every=5,
    keep_last=2,
    device="cpu",
)


@dataclass
class Ear:
    """A sink that keeps what it hears; `after` is called with each step's record."""

    records: list[StepRecord] = field(default_factory=list)
    evaluations: list[EvalRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    runs: list[RunInfo] = field(default_factory=list)
    closed: int = 0
    after: Callable[[StepRecord], Any] = lambda record: None

    def open(self, run: RunInfo) -> None:
        self.runs.append(run)

    def step(self, record: StepRecord) -> None:
        self.records.append(record)
        self.after(record)

    def evaluation(self, record: EvalRecord) -> None:
        self.evaluations.append(record)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        self.closed += 1

    def timeless(self) -> list[StepRecord]:
        """The records without the numbers that no seed fixes."""
        return [replace(r, **UNTIMED) for r in self.records]


@pytest.fixture
def tiny() -> Recipe:
    return TINY


@pytest.fixture
def ear() -> type[Ear]:
    return Ear


@pytest.fixture
def stand_in() -> type[StandIn]:
    return StandIn


@pytest.fixture
def parts() -> Parts:
    """A run on the stand-in, on the recipe's own data."""
    return Parts(model=lambda recipe: StandIn(recipe.model))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"
