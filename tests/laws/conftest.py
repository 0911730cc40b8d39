"""The network written a second time: one row, one position at a time, in float64, slowly."""

import cmath
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.adapter import loop_index_embedding
from open_mythos.nn.loop.initial import position_noise


@dataclass
class Slow:
    """What the definition says of one row of tokens.

    Attributes:
        logits: (S, V).
        weights: [position][loop] weight of the state in the readout.
        used: [position] loops in which it took part.
        loads: [loop][expert] tokens served.
        remainder: [position] Graves' R.
        squares: [position][loop] mean square of the state.
    """

    logits: Tensor
    weights: list[list[float]] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    loads: list[list[int]] = field(default_factory=list)
    remainder: list[float] = field(default_factory=list)
    squares: list[list[float]] = field(default_factory=list)


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean() + 1e-6).sqrt() * weight


def turn(x: Tensor, position: int, theta: float) -> Tensor:
    """(d,) rotated; the phasor is rounded to float32, as the tables are specified."""
    out = []
    for i in range(len(x) // 2):
        phasor = cmath.exp(1j * position * theta ** (-2 * i / len(x)))
        c, s = (float(torch.tensor(v, dtype=torch.float32)) for v in (phasor.real, phasor.imag))
        a, b = x[2 * i], x[2 * i + 1]
        out += [a * c - b * s, a * s + b * c]
    return torch.stack(out)


def swiglu(expert: Any, x: Tensor) -> Tensor:
    gate = expert.gate.weight @ x
    return expert.down.weight @ (gate / (1 + (-gate).exp()) * (expert.up.weight @ x))


def attention(attn: Any, x: Tensor, position: int, past: list[Any]) -> tuple[Tensor, Any]:
    """The output of the newest position and its entry; `past` holds earlier positions' entries."""
    cfg = attn.cfg
    theta = cfg.rope_theta
    if cfg.attn_type == "gqa":
        d, group = cfg.head_dim, cfg.n_heads // cfg.n_kv_heads
        q = (attn.wq.weight @ x).view(cfg.n_heads, d)
        k = (attn.wk.weight @ x).view(cfg.n_kv_heads, d)
        v = (attn.wv.weight @ x).view(cfg.n_kv_heads, d)
        q = torch.stack([turn(head, position, theta) for head in q])
        entry = (torch.stack([turn(head, position, theta) for head in k]), v)
        heads = []
        for h in range(cfg.n_heads):
            seen = [*past, entry]
            scores = torch.stack([q[h] @ k_[h // group] for k_, _ in seen]) / math.sqrt(d)
            weights = scores.softmax(0)
            heads.append(sum(w * v_[h // group] for w, (_, v_) in zip(weights, seen, strict=True)))
        return attn.wo.weight @ torch.cat(heads), entry
    nope, rope, wide = cfg.qk_nope_head_dim, cfg.qk_rope_head_dim, cfg.v_head_dim
    latent = norm(attn.q_down.weight @ x, attn.q_norm.weight)
    q_nope = (attn.q_up_nope.weight @ latent).view(cfg.n_heads, nope)
    q_rope = (attn.q_up_rope.weight @ latent).view(cfg.n_heads, rope)
    q_rope = torch.stack([turn(head, position, theta) for head in q_rope])
    down = attn.kv_down.weight @ x
    c = norm(down[: cfg.kv_lora_rank], attn.kv_norm.weight)
    entry = (c, turn(down[cfg.kv_lora_rank :], position, theta))
    seen = [*past, entry]
    heads = []
    for h in range(cfg.n_heads):
        up = attn.kv_up.weight.view(cfg.n_heads, nope + wide, -1)[h]
        scores = torch.stack([q_nope[h] @ (up[:nope] @ c_) + q_rope[h] @ r for c_, r in seen])
        weights = (scores / math.sqrt(nope + rope)).softmax(0)
        heads.append(sum(w * (up[nope:] @ c_) for w, (c_, _) in zip(weights, seen, strict=True)))
    return attn.wo.weight @ torch.cat(heads), entry


def mixture(ffn: Any, x: Tensor, load: list[int], router: Any = None) -> Tensor:
    logits = (ffn.router.weight if router is None else router) @ x
    biased = (logits + ffn.router_bias).tolist()
    picked = sorted(range(len(biased)), key=lambda i: -biased[i])[: ffn.topk]
    weights = logits[torch.tensor(picked)].softmax(0)
    out = sum(w * swiglu(ffn.routed_experts[i], x) for w, i in zip(weights, picked, strict=True))
    for i in picked:
        load[i] += 1
    return out + sum((swiglu(shared, x) for shared in ffn.shared_experts), torch.zeros_like(x))


def residual(order: str, x: Tensor, layer: Any, weights: tuple[Tensor, Any]) -> Tensor:
    """One residual line; `weights` are the gains of its norm and of the one behind."""
    first, behind = weights[0], None if weights[1] is None else weights[1].weight
    if order == "pre":
        return x + layer(norm(x, first))
    if order == "post":
        return norm(x + layer(x), first)
    if order == "sandwich":
        return x + norm(layer(norm(x, first)), behind)
    assert order == "pre_post"
    return norm(x + layer(norm(x, first)), behind)


def one_block(
    block: Any, x: Tensor, position: int, store: list[Any], feed: Any, attn: Any = None
) -> Tensor:
    """A block at one position; `feed` is its feed-forward, `attn` in place of its own."""

    def look(y: Tensor) -> Tensor:
        mixed, entry = attention(attn or block.attn, y, position, store)
        store.append(entry)
        return mixed

    x = residual(block.order, x, look, (block.attn_norm.weight, block.attn_out_norm))
    return residual(block.order, x, feed, (block.ffn_norm.weight, block.ffn_out_norm))


def dense_block(block: Any, x: Tensor, position: int, store: list[Any]) -> Tensor:
    return one_block(block, x, position, store, lambda y: swiglu(block.ffn, y))


@dataclass
class Purse:
    """Graves' account of one position: p until the sum reaches the threshold, then the rest."""

    threshold: float
    settled: bool
    spent: Tensor
    tau: int | None = None  # the loop in which the position halts
    weights: list[Tensor] = field(default_factory=list)
    remainder: float = 0.0

    def pay(self, p: Tensor, t: int, *, last: bool) -> Tensor:
        weight = torch.zeros_like(p)
        if self.tau is None:
            reached = (self.spent + p).item() >= self.threshold
            weight = p
            if reached or (last and self.settled):
                weight = 1.0 - self.spent
                self.remainder = weight.item()
            if reached:
                self.tau = t
            self.spent = self.spent + p
        self.weights.append(weight)
        return weight


def core(model: OpenMythos, x: Tensor, at: tuple[int, int], slot: list[Any], load: Any) -> Tensor:
    """All layers of the core in loop `at[0]`, for position `at[1]`."""
    cfg, loop, (t, position) = model.cfg, model.recurrent, at
    row = t % cfg.max_loop_iters if cfg.loops_beyond == "cycle" else min(t, cfg.max_loop_iters - 1)
    for i, block in enumerate(loop.blocks):
        router = attn = None
        if row and cfg.untied_router:
            router = loop.routers[row - 1, i]
        if row and cfg.untied_attention:
            attn = loop.attentions[row - 1][i]
        served = load[i * cfg.n_experts : (i + 1) * cfg.n_experts]

        def feed(y: Tensor, block: Any = block, r: Any = router, served: Any = served) -> Tensor:
            dense = cfg.core_ffn == "dense"
            return swiglu(block.ffn, y) if dense else mixture(block.ffn, y, served, r)

        store = [past[i] for past in slot[:position]]
        x = one_block(block, x, position, store, feed, attn)
        load[i * cfg.n_experts : (i + 1) * cfg.n_experts] = served
        if i == 0:
            slot.append([])
        slot[-1].append(store[-1])
    return x


def connections(hyper: Any, streams: list[Tensor]) -> tuple[Any, Any, Any]:
    """alpha [N], R [N][N] and beta [N] of hyper-connections, one stream after the other."""
    alpha, mix, beta = [], [], []
    for i, stream in enumerate(streams):
        moved = (hyper.moved @ norm(stream, hyper.norm.weight)).tanh()
        alpha.append(hyper.alpha[i] + hyper.scale[0] * moved[0])
        mix.append(hyper.mix[i] + hyper.scale[0] * moved[1:-1])
        beta.append(hyper.beta[i] + hyper.scale[1] * moved[-1])
    return alpha, mix, beta


def linear_step(cfg: Any, injection: Any, h: Tensor, e: Tensor) -> Tensor:
    """A h + B e."""
    dt, a = injection.log_dt.exp(), injection.log_A.exp()
    decay = (-dt * a).exp()
    gain = {"free": 1.0, "euler": dt, "zoh": (1 - decay) / a}[cfg.input_write]
    written = injection.B @ e if cfg.input_matrix else injection.B * e
    return decay * h + gain * written


def one_loop(
    model: OpenMythos, h: Tensor, e: Tensor, at: tuple[int, int], slot: list[Any], load: list[int]
) -> Tensor:
    """The state of position `at[1]` after loop `at[0]`; appends its entries to `slot`."""
    cfg, loop, t = model.cfg, model.recurrent, at[0]
    injection: Any = loop.injection
    streams = list(h.split(cfg.dim)) if cfg.injection == "hyper" else []
    if cfg.injection == "lti_first":
        x = linear_step(cfg, injection, h, e)
    elif cfg.injection == "concat_linear":
        x = injection.mix.weight @ torch.cat((h, e))
    elif cfg.injection in ("none", "substep"):
        x = h
    elif streams:
        alpha, mix, beta = connections(injection.connections, streams)
        x = sum((w * s for w, s in zip(alpha, streams, strict=True)), e)
    else:
        x = h + e
    if cfg.loop_index:
        counts = {"continue": t, "hold": min(t, cfg.max_loop_iters - 1)}
        zero = torch.zeros(1, 1, cfg.dim, dtype=h.dtype)
        count = counts.get(cfg.loops_beyond, t % cfg.max_loop_iters)
        x = x + cfg.loop_index_scale * loop_index_embedding(zero, count, cfg.loop_dim)[0, 0]
    if cfg.loop_norm in ("pre", "sandwich"):
        x = norm(x, loop.norm.weight)
    f = core(model, x, at, slot, load)
    if cfg.loop_lora:
        held = min(t, cfg.max_loop_iters - 1)
        row = loop.lora.scale.weight[
            t % cfg.max_loop_iters if cfg.loops_beyond == "cycle" else held
        ]
        f = f + ((loop.lora.down.weight @ f) * row) @ loop.lora.B
    if cfg.injection == "lti":
        f = linear_step(cfg, injection, h, e) + f
    elif cfg.injection in ("damped", "substep"):
        f = (1 - cfg.damping) * h + cfg.damping * f
    elif streams:
        kept = [sum(mix[i][j] * streams[i] for i in range(cfg.streams)) for j in range(cfg.streams)]
        f = torch.cat([k + b * f for k, b in zip(kept, beta, strict=True)])
    if cfg.loop_norm in ("post", "sandwich"):
        f = norm(f, loop.post_norm.weight)
    return f


def starting(model: OpenMythos, x: Tensor, position: int) -> tuple[Tensor, Tensor]:
    """The state before the first loop, and the input of all loops."""
    cfg, loop = model.cfg, model.recurrent
    e = norm(x, loop.input_norm.weight) if cfg.prelude_norm else x
    if cfg.initial_state == "noise":
        h = position_noise(torch.tensor(position), cfg.dim).to(e.dtype) * cfg.initial_std
    else:
        given = {"input": e, "zeros": torch.zeros_like(e), "learned": loop.initial.vector}
        h = given[cfg.initial_state]
    return (h.repeat(cfg.streams) if cfg.injection == "hyper" else h), e


def all_loops(
    model: OpenMythos, e: Tensor, position: int, slots: list[list[Any]], record: Slow
) -> Tensor:
    """What the coda reads at one position; writes its entries to `slots`."""
    cfg, act = model.cfg, model.recurrent.act
    purse = Purse(cfg.act_threshold, cfg.readout != "act_sum", torch.zeros((), dtype=e.dtype))
    h, e = starting(model, e, position)
    mean, held = torch.zeros_like(h), h
    squares: list[float] = []
    for t, slot in enumerate(slots):
        if purse.tau is not None and cfg.halted == "freeze":
            slot.append(slots[purse.tau][position])
            purse.weights.append(torch.zeros(()))
            squares.append(squares[-1])
            continue
        h = one_loop(model, h, e, (t, position), slot, record.loads[t])
        squares.append(h.square().mean().item())
        if purse.tau is None:
            held = h  # the state with which it halts, if this is where it does
        if cfg.readout != "last":
            seen = sum(h.split(cfg.dim)) if cfg.injection == "hyper" else h
            p = 1 / (1 + (-(act.halt.weight[0] @ seen + act.halt.bias[0])).exp())
            mean = mean + purse.pay(p, t, last=t == len(slots) - 1) * h
    record.weights.append([w.item() for w in purse.weights])
    record.used.append(len(slots) if purse.tau is None else purse.tau + 1)
    record.remainder.append(purse.remainder)
    record.squares.append(squares)
    read = {"last": h, "act_last": held}.get(cfg.readout, mean)
    return sum(read.split(cfg.dim)) if cfg.injection == "hyper" else read


def slow_pass(model: OpenMythos, tokens: list[int], n_loops: int) -> Slow:
    """The whole network for one row, position after position, every loop of each."""
    prelude: list[list[Any]] = [[] for _ in model.prelude]
    coda: list[list[Any]] = [[] for _ in model.coda]
    slots: list[list[Any]] = [[] for _ in range(n_loops)]
    cfg, moe = model.cfg, model.cfg.core_ffn == "moe"
    served = model.cfg.core_layers * model.cfg.n_experts * moe
    record = Slow(torch.empty(0), loads=[[0] * served for _ in range(n_loops)])
    logits = []
    for i, token in enumerate(tokens):
        x = model.embed.weight[token]
        for block, store in zip(model.prelude, prelude, strict=True):
            x = dense_block(block, x, i, store)
        x = all_loops(model, x, i, slots, record)
        if cfg.coda_input == "norm":
            x = norm(x, model.coda_input.weight)
        elif cfg.coda_input == "linear":
            x = model.coda_input.weight @ x
        for block, store in zip(model.coda, coda, strict=True):
            x = dense_block(block, x, i, store)
        x = norm(x, model.norm.weight) if cfg.last_norm else x
        logits.append(model.embed.weight @ x)
    record.logits = torch.stack(logits)
    return record


@pytest.fixture(scope="session")
def slow() -> Callable[[OpenMythos, list[int], int], Slow]:
    """`slow(model, tokens, n_loops)`: the definition, for a float64 model; differentiable."""
    return slow_pass


@pytest.fixture(scope="session")
def build(tiny_config: Any, randomised: Any) -> Callable[..., OpenMythos]:
    """`build(**changes)`: a randomised float64 model in evaluation mode."""

    def make(cfg: Any = None, **changes: Any) -> OpenMythos:
        cfg = tiny_config(**changes) if cfg is None else cfg
        model: OpenMythos = randomised(OpenMythos(cfg).double().eval())
        return model

    return make


# -- scaling laws ---------------------------------------------------------------------------------


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """Numbers of the test's own."""
    return np.random.default_rng(seed)


# Parcae (arXiv 2604.12946), appendix O and tables 18 and 19: parameters, those of the looped block,
# and compute budgets in 1e18 FLOPs, each spent at every mean of MEANS.
PARCAE_RUNS = {
    "140M": (144_323_136.0, 2 * 12 * 768.0**2, (1, 2, 4, 8, 16, 64)),
    "370M": (388_003_328.0, 4 * 12 * 1024.0**2, (32, 64, 128)),
}
MEANS = (2, 4, 6, 8, 10, 12)


@pytest.fixture(scope="session")
def parcae_grid() -> Callable[[str], dict[str, Any]]:
    """`parcae_grid("140M")`: inputs of the runs behind the paper's training law.

    Compute is (2 N1 + 6 N2) D, as the first half of the loops, N1, is not differentiated.
    """

    def grid(name: str) -> dict[str, Any]:
        total, block, budgets = PARCAE_RUNS[name]
        rows = []
        for budget in budgets:
            for mean in MEANS:
                differentiated = -(-mean // 2)
                cost = 2 * (mean - differentiated) * block
                cost += 6 * (total + (differentiated - 1) * block)
                rows.append((mean, total + (mean - 1) * block, 1e18 * budget / cost))
        columns = np.array(rows, dtype=float).T
        return dict(zip(("mean_loops", "params", "tokens"), columns, strict=True))

    return grid


@pytest.fixture(scope="session")
def schwethelm_grid() -> dict[str, Any]:
    """Inputs of a grid like the one behind phi (arXiv 2604.21106): 20 layers, r of 1 to 8."""
    rows = []
    for loops in (1, 2, 4, 8):
        for width in (384.0, 640.0, 1024.0, 1536.0):
            for tokens in (5e8, 2e9, 8e9):
                looped = 16 / loops * 12 * width**2 + (2 * width**2 if loops > 1 else 0)
                rows.append((loops, 48 * width**2, looped, tokens))
    columns = np.array(rows, dtype=float).T
    return dict(zip(("loops", "params_once", "params_looped", "tokens"), columns, strict=True))
