"""What can run here, and what `auto` picks of it: a report, made by asking those who pick.

Every answer is that of the function which decides during a pass, about tensors of a network's own
shapes that take no memory. Only why something cannot run here is worded in this file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.ops import (
    backend,
    decode,
    few,
    head_loss,
    projections,
    routing,
    rows,
    sample,
    store,
)


DTYPES = (torch.bfloat16, torch.float32)
ROWS = 32768  # of a training step: 32 sequences of 1024 positions
POSITIONS = 1024


@dataclass(frozen=True)
class Way:
    """One implementation of an op.

    Attributes:
        name: As the op calls it.
        lacks: Why it cannot run here; None if it can.
    """

    name: str
    lacks: str | None = None


@dataclass(frozen=True)
class Choice:
    """An op with more than one implementation.

    Attributes:
        op: What it does, and when.
        ways: Its implementations.
        picked: dtype, such as "bfloat16" -> name of the way that runs by itself.
    """

    op: str
    ways: tuple[Way, ...]
    picked: dict[str, str]


@dataclass(frozen=True)
class Probe:
    """Shapes to ask about: those of one network on one device in one dtype."""

    cfg: MythosConfig
    device: torch.device
    dtype: torch.dtype

    def tensor(self, *shape: int, learns: bool = False) -> Tensor:
        """A tensor without memory behind it; `learns` asks for its gradient."""
        return torch.empty(shape, device=self.device, dtype=self.dtype, requires_grad=learns)


def choices(cfg: MythosConfig, device: torch.device) -> list[Choice]:
    """Every op with a choice, for the shapes of `cfg` on `device`, outside of compiled graphs."""
    triton = partial(Way, lacks=_no_triton(device))
    table: tuple[tuple[str, tuple[Way, ...], Callable[[Probe], str]], ...] = (
        ("attention, whole texts", _attention_ways(cfg, device), _attention),
        ("attention, one new token", (triton("triton"), Way("sdpa")), _decode_attention),
        (f"experts, {ROWS:,} rows", _experts_ways(cfg, device), _many_experts),
        (f"routing, {ROWS:,} rows", (triton("triton"), Way("plain")), _routing),
        ("experts, one new token", (triton("few"), *_experts_ways(cfg, device)), _few_experts),
        ("linear maps, one new token", (triton("triton"), Way("torch")), _linear),
        ("feed-forward, one new token", (triton("triton"), Way("torch")), _feed_forward),
        ("cache, one new token", (triton("triton"), Way("plain")), _store),
        ("drawing, top-k", (triton("triton"), Way("plain")), _sample),
        ("head and its loss", _head_loss_ways(device), _head_loss),
        ("norms, SwiGLU, rotary", (triton("triton"), Way("plain")), _rows),
        ("their gradients", (triton("triton"), Way("plain")), _gradients),
        ("heads of latent attention", (triton("triton"), Way("plain")), _heads),
        (
            f"the same, a prompt of {ROWS:,}",
            (triton("in place"), triton("triton"), Way("plain")),
            _prompt_heads,
        ),
        ("end of a loop", (triton("triton"), Way("plain")), _rows),
        ("generation", (Way("cuda graph", _no_cuda(device)), Way("eager")), _generation),
    )
    with FakeTensorMode():
        probes = [Probe(cfg, device, dtype) for dtype in DTYPES]
        return [
            Choice(op, ways, {str(p.dtype).removeprefix("torch."): pick(p) for p in probes})
            for op, ways, pick in table
        ]


# -- what runs by itself ---------------------------------------------------------------------------


def _qkv(probe: Probe) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as `attend` gets them."""
    cfg = probe.cfg
    if cfg.attn_type == "gqa":
        query, key, value = cfg.head_dim, cfg.head_dim, cfg.head_dim
        heads = cfg.n_kv_heads
    else:
        query = key = cfg.qk_nope_head_dim + cfg.qk_rope_head_dim
        value, heads = cfg.v_head_dim, cfg.n_heads
    return (
        probe.tensor(1, POSITIONS, cfg.n_heads, query),
        probe.tensor(1, POSITIONS, heads, key),
        probe.tensor(1, POSITIONS, heads, value),
    )


def _attention(probe: Probe) -> str:
    return backend.attention_backend(*_qkv(probe), None, "auto")


def _cached(probe: Probe) -> tuple[Tensor, ...]:
    """A layer's cache."""
    return tuple(probe.tensor(1, POSITIONS, *w) for w in probe.cfg.cache_widths.values())


def _decode_attention(probe: Probe) -> str:
    cfg, kept = probe.cfg, _cached(probe)
    width = cfg.head_dim
    if cfg.attn_type == "mla":
        width = cfg.kv_lora_rank + cfg.qk_rope_head_dim
    q = probe.tensor(1, 1, cfg.n_heads, width)
    return "triton" if decode.has_kernel(q, kept[0], kept[1]) else "sdpa"


def _experts(probe: Probe, count: int, *, learns: bool) -> str:
    cfg = probe.cfg
    x = probe.tensor(count, cfg.dim, learns=learns)
    chosen = count * cfg.n_experts_per_tok
    return backend.experts_backend(x, cfg.n_experts, cfg.expert_dim, "auto", choices=chosen)


def _many_experts(probe: Probe) -> str:
    return _experts(probe, ROWS, learns=True)


def _routing(probe: Probe) -> str:
    logits = probe.tensor(ROWS, probe.cfg.n_experts, learns=True)
    bias = torch.empty(probe.cfg.n_experts, device=probe.device)  # float32 in every network
    return routing.routes_backend(logits, bias)


def _few_experts(probe: Probe) -> str:
    cfg = probe.cfg
    read = (
        probe.tensor(1, cfg.n_experts),
        probe.tensor(cfg.n_experts, cfg.dim, 2 * cfg.expert_dim),
        probe.tensor(cfg.n_experts, cfg.expert_dim, cfg.dim),
    )
    if few.few_rows(probe.tensor(1, cfg.dim), *read, most=few.EXPERT_ROWS):
        return "few"
    return _experts(probe, 1, learns=False)


def _linear(probe: Probe) -> str:
    dim = probe.cfg.dim
    return "triton" if few.few_rows(probe.tensor(1, 1, dim), probe.tensor(dim, dim)) else "torch"


def _feed_forward(probe: Probe) -> str:
    dim, hidden = probe.cfg.dim, probe.cfg.expert_dim
    weights = probe.tensor(2 * hidden, dim), probe.tensor(dim, hidden)
    fits = few.few_rows(probe.tensor(1, 1, dim), *weights, most=few.SWIGLU_ROWS)
    return "triton" if fits else "torch"


def _store(probe: Probe) -> str:
    kept = _cached(probe)
    return store.store_backend(probe.tensor(1, 1, kept[0].shape[-1]), stores=kept)


def _sample(probe: Probe) -> str:
    logits = probe.tensor(1, probe.cfg.vocab_size)
    return sample.sample_backend(logits, logits.float(), 50, 1.0, 0.0)


def _head_loss(probe: Probe) -> str:
    if backend.traced():
        return "dense"
    plain = head_loss.scorer(probe.tensor(ROWS, probe.cfg.dim)) is head_loss.score_rows_plain
    return "chunked, plain" if plain else "chunked, triton"


def _rows(probe: Probe) -> str:
    return rows.rows_backend(probe.tensor(1, 1, probe.cfg.dim))


def _gradients(probe: Probe) -> str:
    wide = probe.tensor(ROWS, probe.cfg.dim, learns=True)
    return "triton" if projections.one_pass(wide) else "plain"


def _heads(probe: Probe) -> str:
    wide = probe.tensor(ROWS, probe.cfg.dim, learns=True)
    return "triton" if projections.whole_heads(wide, wide) else "plain"


def _prompt_heads(probe: Probe) -> str:
    latent = probe.tensor(ROWS, probe.cfg.kv_lora_rank)
    return projections.heads_backend(latent, latent)


def _generation(probe: Probe) -> str:
    """`Decoder` captures its step wherever the model is on a CUDA device."""
    return "cuda graph" if probe.device.type == "cuda" else "eager"


# -- what could run --------------------------------------------------------------------------------


def _no_cuda(device: torch.device) -> str | None:
    return None if device.type == "cuda" else "needs CUDA"


def _no_triton(device: torch.device) -> str | None:
    return _no_cuda(device) if backend.HAS_TRITON else "triton is not installed"


def _attention_ways(cfg: MythosConfig, device: torch.device) -> tuple[Way, ...]:
    def lacks(name: backend.AttentionBackend) -> str | None:
        if name == "flash" and not backend.HAS_FLASH:
            return "flash-attn is not installed"
        if name == "flash" and device.type != "cuda":
            return _no_cuda(device)
        with FakeTensorMode():
            try:
                q, k, v = _qkv(Probe(cfg, device, torch.bfloat16))
                backend.attention_backend(q, k, v, None, name)
            except InputError as refusal:
                return str(refusal).partition(";")[0]
        return None

    names = get_args(backend.AttentionBackend)
    return tuple(Way(name, lacks(name)) for name in names if name != "auto")


def _experts_ways(cfg: MythosConfig, device: torch.device) -> tuple[Way, ...]:
    def lacks(name: str) -> str | None:
        aligned = {"fused": backend.FUSED_ALIGNMENT, "grouped": backend.GROUPED_ALIGNMENT}
        step = aligned.get(name, 1)
        if name == "fused" and _no_triton(device):
            return _no_triton(device)
        if name == "blocks" and device.type != "cpu":
            return "needs a CPU"
        if name == "grouped" and not backend.has_grouped():
            return f"torch {torch.__version__} has no grouped_mm"
        if cfg.dim % step or cfg.expert_dim % step:
            return f"dim and expert_dim are no multiples of {step}"
        return None

    names = get_args(backend.ExpertsBackend)
    return tuple(Way(name, lacks(name)) for name in names if name != "auto")


def _head_loss_ways(device: torch.device) -> tuple[Way, ...]:
    old = f"torch {torch.__version__} has no linear_cross_entropy"
    native = Way("torch", None if hasattr(F, "linear_cross_entropy") else old)
    known = {
        "chunked": (Way("chunked, triton", _no_triton(device)), Way("chunked, plain")),
        "torch": (native,),
    }
    names = [name for name in get_args(head_loss.HeadLossBackend) if name != "auto"]
    return tuple(way for name in names for way in known.get(name, (Way(name),)))
