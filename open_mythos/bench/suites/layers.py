"""Layers alone: the mixture of experts and the attention core."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from open_mythos.bench.clock import Clock, Step
from open_mythos.bench.ours import moe_layer
from open_mythos.bench.peers.openmythos_05 import OpenMythos05
from open_mythos.bench.record import Figure
from open_mythos.bench.suite import Case, Found, Setting
from open_mythos.config.mythos import MythosConfig
from open_mythos.ops.attend import attend
from open_mythos.ops.backend import HAS_FLASH, ExpertsBackend


# Run every expert on every token, or one token at a time: not for measuring.
DEFINITIONS = ("dense", "reference", "gathered")
ON_A_CPU = ("blocks",)
BACKWARD_OVER_FORWARD = 2.5  # attention computes its scores again: five products against two
KERNELS = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
)
LONGEST_WRITTEN_OUT = 1024  # beyond, the scores of the definition do not fit
COMPILED_SECONDS = 30.0


def moe(setting: Setting) -> list[Case]:
    """The routed experts with their router, forward, and forward and backward together."""
    cfg = setting.size.config("gqa", n_shared_experts=0)
    found = [
        Case(backend, backend, _layer(setting, cfg, backend), seconds=5)
        for backend in get_args(ExpertsBackend)
        if backend not in DEFINITIONS and (setting.device.type == "cpu" or backend not in ON_A_CPU)
    ]
    if setting.compile:
        compiled = _layer(setting, cfg, "auto", compiled=True)
        found.append(Case("auto compiled", "auto compiled", compiled, seconds=COMPILED_SECONDS))
    found.append(Case("dense twin", "dense twin", _dense(setting, cfg), seconds=3))
    if setting.peer is not None:
        found.append(Case("0.5.0", OpenMythos05.name, _peer(setting, cfg), seconds=5))
    return found


def _layer(
    setting: Setting, cfg: MythosConfig, backend: str, *, compiled: bool = False
) -> Callable[[], Iterator[Found]]:
    def run() -> Iterator[Found]:
        chosen: Any = backend
        layer = moe_layer(cfg, setting.device, setting.dtype, chosen).train()
        call = torch.compile(layer, dynamic=False) if compiled else layer
        yield _experts_row(setting, cfg, f"{backend}{' compiled' * compiled}", (layer, call))

    return run


def _dense(setting: Setting, cfg: MythosConfig) -> Callable[[], Iterator[Found]]:
    """One SwiGLU of the same FLOPs: what routing costs is the difference."""

    def run() -> Iterator[Found]:
        with setting.device:
            layer = _Dense(cfg.dim, cfg.expert_dim * cfg.n_experts_per_tok).to(setting.dtype)
        yield _experts_row(setting, cfg, "dense twin", (layer, layer))

    return run


class _Dense(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.up(x).chunk(2, dim=-1)
        mixed: Tensor = self.down(F.silu(gate) * up)
        return mixed


def _peer(setting: Setting, cfg: MythosConfig) -> Callable[[], Iterator[Found]]:
    def run() -> Iterator[Found]:
        assert setting.peer is not None
        whole = OpenMythos05(setting.peer, cfg, setting.device, setting.precision)
        with setting.device:
            layer = whole.module.MoEFFN(whole.own).to(setting.dtype)
        layer.shared_experts = nn.ModuleList()
        yield _experts_row(setting, cfg, OpenMythos05.name, (layer, layer))

    return run


def _experts_row(
    setting: Setting, cfg: MythosConfig, who: str, layer: tuple[nn.Module, Callable[..., Tensor]]
) -> Found:
    """Router and experts on random states; the router's few FLOPs are not counted."""
    module, call = layer
    size = setting.size
    shape = (size.batch, size.seq_len, cfg.dim)
    x = torch.randn(shape, device=setting.device, dtype=setting.dtype, requires_grad=True)
    out = torch.randn(shape, device=setting.device, dtype=setting.dtype)
    picked = cfg.n_experts_per_tok * cfg.expert_dim
    flops = 6.0 * size.batch * size.seq_len * cfg.dim * picked
    figures = both_ways(
        setting.clock, lambda: call(x), out, [x, *module.parameters()], (flops, 3 * flops)
    )
    return Found(
        case="routed experts",
        who=who,
        figures={**figures, **setting.clock.peak()},
        shape={"tokens": size.batch * size.seq_len, "experts": cfg.n_experts},
    )


def both_ways(
    clock: Clock,
    forward: Callable[[], Tensor],
    gradient: Tensor,
    leaves: list[Any],
    flops: tuple[float, float],
) -> dict[str, Figure]:
    """Times of the forward pass, and of forward and backward together; `flops` of each."""
    there = clock.time(_without_gradient(forward), repeat=20, cap=1.0)

    def both() -> None:
        for leaf in leaves:
            leaf.grad = None
        forward().backward(gradient)

    back = clock.time(both, repeat=20, cap=1.5)
    return {
        "forward": there.figure(),
        "forward_tflops": Figure(flops[0] / there.median / 1e9, "TFLOP/s"),
        "both": back.figure(),
        "both_tflops": Figure(flops[1] / back.median / 1e9, "TFLOP/s"),
    }


def _without_gradient(forward: Callable[[], Tensor]) -> Step:
    def step() -> Tensor:
        with torch.no_grad():
            return forward()

    return step


# -- attention -----------------------------------------------------------------------------------


def attention(setting: Setting) -> list[Case]:
    """Causal softmax attention on random queries, keys and values, by implementation."""
    kernels: dict[str, list[SDPBackend]] = {"": []}
    if setting.device.type == "cuda":
        kernels |= {f" {b.name.partition('_')[0].lower()}": [b] for b in KERNELS}
    ways = [(f"sdpa{name}", "sdpa", chosen) for name, chosen in kernels.items()]
    ways += [("auto", "auto", [])]
    ways += [("flash", "flash", [])] if HAS_FLASH else []
    if setting.size.seq_len <= LONGEST_WRITTEN_OUT:
        ways += [("reference", "reference", [])]
    return [
        Case(name, name, _core(setting, attn, (name, backend, chosen)), attn, seconds=5)
        for attn in setting.attns
        for name, backend, chosen in ways
    ]


def _core(
    setting: Setting, attn: str, way: tuple[str, str, list[SDPBackend]]
) -> Callable[[], Iterator[Found]]:
    """`way`: what results call it, the library's backend, and SDPA's kernels to allow (all)."""
    name, backend, kernels = way

    def run() -> Iterator[Found]:
        size, cfg = setting.size, setting.size.config(attn)
        wide = cfg.qk_rope_head_dim + cfg.qk_nope_head_dim
        keys, query, value = (
            (cfg.n_heads, wide, cfg.v_head_dim)
            if attn == "mla"
            else (cfg.n_kv_heads, cfg.head_dim, cfg.head_dim)
        )
        like: dict[str, Any] = {"device": setting.device, "dtype": setting.dtype}
        rows = (size.batch, size.seq_len)
        q = torch.randn(*rows, cfg.n_heads, query, **like, requires_grad=True)
        k = torch.randn(*rows, keys, query, **like, requires_grad=True)
        v = torch.randn(*rows, keys, value, **like, requires_grad=True)
        out = torch.randn(*rows, cfg.n_heads, value, **like)
        chosen: Any = backend
        flops = float(size.batch * cfg.n_heads * size.seq_len**2 * (query + value))

        def mixed() -> Tensor:
            with sdpa_kernel(kernels) if kernels else nullcontext():
                return attend(q, k, v, backend=chosen)

        figures = both_ways(
            setting.clock,
            mixed,
            out,
            [q, k, v],
            (flops, (1 + BACKWARD_OVER_FORWARD) * flops),
        )
        shape = {"batch": size.batch, "seq_len": size.seq_len, "heads": f"{cfg.n_heads}/{keys}"}
        yield Found(
            case=f"core {query}/{value}",
            who=name,
            figures={**figures, **setting.clock.peak()},
            shape=shape,
        )

    return run
