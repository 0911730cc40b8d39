"""A training loop as plain as it can be, for one process and for many: the twin of each other."""

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import AdamW

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.parallel.apply import distribute
from open_mythos.parallel.degrees import Degrees
from open_mythos.parallel.mesh import open_mesh
from open_mythos.parallel.spread import Spread


IGNORE, ROWS, LENGTH = -100, 4, 9
TINY: dict[str, Any] = {
    "vocab_size": 40,
    "dim": 16,
    "n_heads": 4,
    "n_kv_heads": 2,
    "max_seq_len": 32,
    "max_loop_iters": 3,
    "prelude_layers": 1,
    "coda_layers": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 5,
    "n_experts": 6,
    "n_shared_experts": 1,
    "n_experts_per_tok": 2,
    "expert_dim": 6,
    "act_threshold": 0.8,
    "lora_rank": 3,
    "dense_hidden": 24,
}


def network(seed: int = 0, **changes: Any) -> OpenMythos:
    """A tiny network in training mode, the same on every rank, with nothing left at its start."""
    torch.manual_seed(seed)
    model = OpenMythos(MythosConfig(**{**TINY, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.train()


def spread_out(model: OpenMythos, degrees: dict[str, int], **how: Any) -> Spread:
    """The network run by the ranks of this call."""
    mesh = open_mesh(Degrees(**degrees), torch.device("cpu"))
    return distribute(model, mesh, **how)


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Ids and targets (ROWS, LENGTH) of a step; rows are scored unevenly."""
    draw = torch.Generator().manual_seed(step)
    rows = torch.randint(40, (ROWS, LENGTH + 1), generator=draw)
    hidden = torch.rand(ROWS, LENGTH, generator=draw) < torch.linspace(0.1, 0.7, ROWS).unsqueeze(1)
    return rows[:, :-1].contiguous(), rows[:, 1:].masked_fill(hidden, IGNORE)


def optimiser(model: OpenMythos) -> AdamW:
    """AdamW as the trainer builds it: the expert stacks in a group of their own."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    stacks = [(name, p) for name, p in named if p.ndim > 2]
    others = [(name, p) for name, p in named if p.ndim <= 2]
    return AdamW([{"params": others}, {"params": stacks}], lr=3e-3, fused=True)


def learn(
    model: OpenMythos,
    spread: Spread,
    optimizer: AdamW,
    steps: range,
    *,
    depth: Any = lambda step, index: 3,
    passes: int = 1,
) -> list[float]:
    """The losses of some steps over the whole batch, the same on every rank."""
    own, said = ROWS // spread.data_world, []
    forward = spread.caller(model)
    for step in steps:
        ids, targets = batch(step)
        scored = (targets != IGNORE).sum()
        mine = torch.arange(own) + spread.data_rank * own
        seen = torch.zeros((), dtype=torch.float64)
        for index, rows in enumerate(mine.chunk(passes)):
            with spread.passing(last=index == passes - 1):
                out = forward(
                    ids[rows],
                    depth(step, index),
                    logits_to_keep=0,
                    return_output=True,
                )
                cost = spread.head_loss(
                    out.features.flatten(0, 1),
                    model.head.weight,
                    targets[rows].flatten(),
                    z_loss=1e-3,
                )
                loss = cost.total * (cost.n_targets / scored)
                if out.ponder_cost is not None:
                    loss = loss + 0.01 * out.ponder_cost * len(rows) / ROWS
                (loss * spread.data_world).backward()
                seen += loss.detach()
        spread.clip(model, 0.5)
        optimizer.step()
        optimizer.zero_grad()
        model.update_router_bias(0.001)
        said.append(float(spread.sum(seen)))
    return said


@cache
def alone(seed: int = 0, steps: int = 20, passes: int = 1, **changes: Any) -> list[float]:
    """What one process says; remembered, and not to be changed."""
    model = network(seed, **changes)
    return learn(model, Spread(), optimiser(model), range(steps), passes=passes)


def together(
    degrees: dict[str, int],
    seed: int = 0,
    steps: int = 20,
    passes: int = 1,
    how: dict[str, Any] | None = None,
    **changes: Any,
) -> list[float]:
    """What a rank says."""
    model = network(seed, **changes)
    spread = spread_out(model, degrees, **(how or {}))
    return learn(model, spread, optimiser(model), range(steps), passes=passes)


def alike(value: Tensor) -> bool:
    """Whether every rank has the same bits."""
    parts = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, value.contiguous())
    return all(torch.equal(part, value) for part in parts)
