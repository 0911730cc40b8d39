"""MoDA by definition: one position, one head, one expert at a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from open_mythos.moda import MoDAConfig, MoDAModel
from open_mythos.moda.block import MoDABlock
from open_mythos.moda.experts import DeepSeekMoE


TINY = {
    "vocab_size": 19,
    "d_model": 12,
    "n_layers": 3,
    "n_heads_q": 4,
    "n_heads_kv": 2,
    "head_dim": 6,
    "max_seq_len": 32,
    "rope_base": 100.0,
    "n_shared_experts": 2,
    "n_routed_experts": 6,
    "n_activated_experts": 2,
    "expert_hidden_dim": 5,
    "moe_balance_alpha": 0.3,
    "moe_route_scale": 1.7,
}


@pytest.fixture(scope="session")
def tiny() -> Callable[..., MoDAConfig]:
    """`tiny(**changes)`: a config whose model has a few thousand parameters."""

    def make(**changes: Any) -> MoDAConfig:
        return MoDAConfig(**{**TINY, **changes})

    return make


@pytest.fixture(scope="session")
def build(tiny: Callable[..., MoDAConfig], randomised: Callable[..., Any]) -> Callable[..., Any]:
    """`build(**changes)`: a tiny model in float64 with noise on everything, in evaluation mode."""

    def make(**changes: Any) -> MoDAModel:
        model: MoDAModel = randomised(MoDAModel(tiny(**changes)).double().eval())
        return model

    return make


# -- the definition -------------------------------------------------------------------------------


@dataclass
class Slow:
    """Logits (S, V) of one row, visits per layer and expert, balance losses summed over layers."""

    logits: Tensor
    loads: list[list[int]]
    imbalance: float


def turned(vector: Tensor, position: int, base: float) -> Tensor:
    """Adjacent channels as a plane, turned by position * base ** (-2i / d)."""
    out, d = vector.clone(), len(vector)
    for i in range(0, d, 2):
        angle = position * base ** (-i / d)
        c, s = (float(np.float32(f(angle))) for f in (math.cos, math.sin))  # as tables are kept
        out[i] = vector[i] * c - vector[i + 1] * s
        out[i + 1] = vector[i] * s + vector[i + 1] * c
    return out


def normed(x: Tensor, norm: Any) -> Tensor:
    return x / ((x * x).mean() + norm.eps).sqrt() * norm.weight


def one_softmax(q: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """One query (d,) against any number of keys."""
    powers = [math.exp(float(q @ k) / math.sqrt(len(q))) for k in keys]
    total = sum(powers)
    out = torch.zeros_like(values[0])
    for power, value in zip(powers, values, strict=True):
        out = out + power / total * value
    return out


def picked(scores: list[float], bias: list[float] | None, k: int, groups: int, top: int) -> set:
    """The experts of one token, by trying every set of groups and every set of experts."""
    rank = scores if bias is None else [s + b for s, b in zip(scores, bias, strict=True)]
    size, best = len(rank) // groups, 1 if bias is None else 2
    members = [list(range(g * size, (g + 1) * size)) for g in range(groups)]
    worth = [sum(sorted((rank[e] for e in m), reverse=True)[:best]) for m in members]
    open_groups = max(combinations(range(groups), top), key=lambda gs: sum(worth[g] for g in gs))
    allowed = [e for g in open_groups for e in members[g]]
    return set(max(combinations(allowed, k), key=lambda es: sum(rank[e] for e in es)))


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    a = gate @ x
    return down @ (a / (1 + (-a).exp()) * (up @ x))


def slow_experts(moe: DeepSeekMoE, x: Tensor) -> tuple[Tensor, set[int], Tensor]:
    """One token (D,) through its experts: the sum, who they are, and every expert's share."""
    cfg = moe.cfg
    logits = moe.router.weight @ x
    if cfg.moe_score_func == "softmax":
        scores = logits.exp() / logits.exp().sum()
    else:
        scores = 1 / (1 + (-logits).exp())
    bias = None if moe.router_bias is None else moe.router_bias.tolist()
    k, groups, top = cfg.n_activated_experts, cfg.moe_n_groups, cfg.moe_topk_groups
    who = picked(scores.tolist(), bias, k, groups, top)
    total = sum(float(scores[e]) for e in who) if cfg.moe_score_func == "sigmoid" else 1.0
    hidden, out = cfg.expert_hidden_dim, torch.zeros_like(x)
    for e in who:
        gate, up = moe.gate_up[e].T.split(hidden)
        weight = float(scores[e]) / total * cfg.moe_route_scale
        out = out + weight * swiglu(x, gate, up, moe.down[e].T)
    for i in range(cfg.n_shared_experts):
        assert moe.shared is not None
        own = slice(i * hidden, (i + 1) * hidden)
        gate, up = moe.shared.gate.weight[own], moe.shared.up.weight[own]
        out = out + swiglu(x, gate, up, moe.shared.down.weight[:, own])
    return out, who, scores / scores.sum()


Entry = tuple[Tensor, Tensor]  # keys and values (K, d) of one position


def slow_attention(
    block: MoDABlock, read: list[Tensor], depth: list[list[Entry]]
) -> tuple[list[Tensor], list[Entry]]:
    """What attention says at every position, and each position's own entry."""
    attn, cfg = block.attn, block.cfg
    group = cfg.n_heads_q // cfg.n_heads_kv
    own = [entry(attn.k_proj.weight, attn.v_proj.weight, v, t, cfg) for t, v in enumerate(read)]
    said = []
    for t, vector in enumerate(read):
        mixed = []
        for h, q in enumerate((attn.q_proj.weight @ vector).view(-1, cfg.head_dim)):
            seen = [*own[: t + 1], *depth[t]]
            keys, values = ([pair[i][h // group] for pair in seen] for i in (0, 1))
            mixed.append(one_softmax(turned(q, t, cfg.rope_base), keys, values))
        said.append(attn.o_proj.weight @ torch.cat(mixed))
    return said, own


def entry(key: Tensor, value: Tensor, x: Tensor, t: int, cfg: MoDAConfig) -> Entry:
    heads = (key @ x).view(-1, cfg.head_dim)
    turns = torch.stack([turned(h, t, cfg.rope_base) for h in heads])
    return turns, (value @ x).view(-1, cfg.head_dim)


@torch.no_grad()
def slow_model(model: MoDAModel, ids: list[int]) -> Slow:
    """The whole network over one row."""
    cfg, length = model.cfg, len(ids)
    post = cfg.block_norm == "post"
    x = [model.embed.weight[i] for i in ids]
    depth: list[list[Entry]] = [[] for _ in ids]
    loads, imbalance = [], 0.0
    for block in model.blocks:
        read = x if post else [normed(v, block.norm_attn) for v in x]
        said, own = slow_attention(block, read, depth)
        x = [v + s for v, s in zip(x, said, strict=True)]
        x = [normed(v, block.norm_attn) for v in x] if post else x
        load, shares = [0] * cfg.n_routed_experts, []
        for t in range(length):
            out, who, share = slow_experts(
                block.moe, x[t] if post else normed(x[t], block.norm_ffn)
            )
            x[t] = normed(x[t] + out, block.norm_ffn) if post else x[t] + out
            shares.append(share)
            for e in who:
                load[e] += 1
        loads.append(load)
        mean = torch.stack(shares).mean(0)
        visits = cfg.n_activated_experts * length
        imbalance += sum(
            n * cfg.n_routed_experts / visits * float(p) for n, p in zip(load, mean, strict=True)
        )
        for t in range(length):
            if cfg.depth_from in ("attention", "both"):
                depth[t].append(own[t])
            if cfg.depth_from in ("ffn", "both") and block is not model.blocks[-1]:
                left = x[t] if post else normed(x[t], block.norm_write)
                maps = (block.write.part(name).weight for name in ("k", "v"))
                depth[t].append(entry(*maps, left, t, cfg))
    logits = torch.stack([model.embed.weight @ normed(v, model.norm_out) for v in x])
    return Slow(logits, loads, imbalance)


@pytest.fixture(scope="session")
def slow() -> Callable[[MoDAModel, list[int]], Slow]:
    return slow_model


@pytest.fixture(scope="session")
def slow_moe() -> Callable[[DeepSeekMoE, Tensor], tuple[Tensor, set[int], Tensor]]:
    return slow_experts


@pytest.fixture(scope="session")
def brute_force() -> Callable[..., set]:
    return picked
