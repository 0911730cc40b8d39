"""Small random checkpoints of each family, and what the papers' equations say of them.

One matrix product after the other, for one row, in the dtype of the weights: independent of the
library but for the noise in which Huginn's and Parcae's states start (theirs is drawn anew in
every pass).
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from open_mythos.nn.loop.initial import position_noise


Weights = dict[str, Tensor]
Equations = Callable[[Weights, dict[str, Any], Tensor, int], Tensor]


def draw(shapes: dict[str, tuple[int, ...]]) -> Weights:
    """Random weights; vectors lie around one, as norms do."""
    return {
        name: 1.0 + 0.3 * torch.randn(shape, dtype=torch.float64)
        if len(shape) == 1
        else 0.4 * torch.randn(shape, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def write(folder: Path, values: dict[str, Any], weights: Weights) -> Path:
    """The folder as the hub holds one."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
    return folder


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of (S, H, d) queries to (S, K, d) keys, one head and position at a time."""
    out = torch.zeros_like(q)
    group = q.shape[1] // k.shape[1]
    for head in range(q.shape[1]):
        for at in range(q.shape[0]):
            seen = k[: at + 1, head // group] @ q[at, head] / math.sqrt(q.shape[-1])
            out[at, head] = seen.softmax(0) @ v[: at + 1, head // group]
    return out.flatten(1)


def turn(x: Tensor, base: float, pairs: str) -> Tensor:
    """Rotary embedding of (S, H, d), as complex numbers made of "neighbours" or of "halves"."""
    d = x.shape[-1]
    order = torch.arange(d)
    index = order.view(-1, 2) if pairs == "neighbours" else order.view(2, -1).t()
    angles = torch.arange(x.shape[0], dtype=x.dtype)[:, None] * base ** (
        -torch.arange(0, d, 2, dtype=x.dtype) / d
    )
    turned = torch.complex(x[..., index[:, 0]], x[..., index[:, 1]])
    phasors = torch.complex(angles.cos().float(), angles.sin().float())  # their tables are float32
    turned = turned * phasors.to(turned.dtype)[:, None]
    out = torch.empty_like(x)
    out[..., index[:, 0]], out[..., index[:, 1]] = turned.real, turned.imag
    return out


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


# -- Huginn --------------------------------------------------------------------------------------

HUGINN: dict[str, Any] = {
    "model_type": "huginn_raven",
    "architectures": ["RavenForCausalLM"],
    "n_embd": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 30,
    "padded_vocab_size": 32,
    "block_size": 32,
    "n_layers_in_prelude": 2,
    "n_layers_in_recurrent_block": 3,
    "n_layers_in_coda": 1,
    "mean_recurrence": 4,
    "rope_base": 50000,
    "norm_eps": 1e-3,
    "qk_bias": True,
    "bias": False,
    "tie_embeddings": True,
    "block_class_name": "SandwichBlock",
    "mlp_class_name": "GatedMLP",
    "nonlin_name": "SiLU",
    "norm_class_name": "RMSNorm_llama",
    "injection_type": "linear",
    "init_values": {"std": 0.158, "embed_scale": 4.2},
}
STACKS = ("prelude", "core_block", "coda")
COUNTS = ("n_layers_in_prelude", "n_layers_in_recurrent_block", "n_layers_in_coda")


def huginn_weights(values: dict[str, Any]) -> Weights:
    dim, hidden, heads = (
        values["n_embd"],
        values["intermediate_size"],
        values["num_attention_heads"],
    )
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (values["padded_vocab_size"], dim),
        "transformer.adapter.weight": (dim, 2 * dim),
        "transformer.ln_f.weight": (dim,),
        "freqs_cis": (1, values["block_size"], 1, dim // heads // 2, 2),
    }
    if not values["tie_embeddings"]:
        shapes["lm_head.weight"] = (values["padded_vocab_size"], dim)
    for stack, count in zip(STACKS, COUNTS, strict=True):
        for i in range(values[count]):
            at = f"transformer.{stack}.{i}"
            shapes |= {f"{at}.norm_{n}.weight": (dim,) for n in (1, 2, 3, 4)}
            shapes |= {
                f"{at}.attn.Wqkv.weight": (3 * dim, dim),
                f"{at}.attn.proj.weight": (dim, dim),
                f"{at}.mlp.fc.weight": (2 * hidden, dim),
                f"{at}.mlp.proj.weight": (dim, hidden),
            }
            if values["qk_bias"]:
                shapes[f"{at}.attn.qk_bias"] = (2, 1, heads, dim // heads)
    return draw(shapes)


def huginn_logits(w: Weights, values: dict[str, Any], ids: Tensor, loops: int) -> Tensor:
    """x_n = e = prelude(scale wte); s <- core(A [s; e]); logits = wte ln(coda(ln(s)))."""
    dim, heads, eps = values["n_embd"], values["num_attention_heads"], values["norm_eps"]

    def block(at: str, x: Tensor) -> Tensor:
        normed = rms(x, w[f"{at}.norm_1.weight"], eps)
        parts = (normed @ w[f"{at}.attn.Wqkv.weight"].t()).split(dim, -1)
        q, k, v = (part.view(len(x), heads, -1) for part in parts)
        if values["qk_bias"]:
            q, k = q + w[f"{at}.attn.qk_bias"][0], k + w[f"{at}.attn.qk_bias"][1]
        q, k = (turn(part, values["rope_base"], "neighbours") for part in (q, k))
        x = x + attend(q, k, v) @ w[f"{at}.attn.proj.weight"].t()
        x = rms(x, w[f"{at}.norm_2.weight"], eps)
        both = rms(x, w[f"{at}.norm_3.weight"], eps) @ w[f"{at}.mlp.fc.weight"].t()
        gate, up = both.chunk(2, -1)
        x = x + (silu(gate) * up) @ w[f"{at}.mlp.proj.weight"].t()
        return rms(x, w[f"{at}.norm_4.weight"], eps)

    def stack(name: str, count: str, x: Tensor) -> Tensor:
        for i in range(values[count]):
            x = block(f"transformer.{name}.{i}", x)
        return x

    e = w["transformer.wte.weight"][ids] * values["init_values"]["embed_scale"]
    e = stack("prelude", "n_layers_in_prelude", e)
    s = (position_noise(torch.arange(len(ids)), dim) * 0.4**0.5).to(e.dtype)
    for _ in range(loops):
        s = torch.cat((s, e), -1) @ w["transformer.adapter.weight"].t()
        s = stack("core_block", "n_layers_in_recurrent_block", s)
    s = stack("coda", "n_layers_in_coda", rms(s, w["transformer.ln_f.weight"], eps))
    head = w["transformer.wte.weight" if values["tie_embeddings"] else "lm_head.weight"]
    return rms(s, w["transformer.ln_f.weight"], eps) @ head.t()


# -- Ouro ----------------------------------------------------------------------------------------

OURO: dict[str, Any] = {
    "model_type": "ouro",
    "architectures": ["OuroForCausalLM"],
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "total_ut_steps": 4,
    "early_exit_threshold": 1.0,
    "vocab_size": 31,
    "max_position_embeddings": 32,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "rms_norm_eps": 1e-3,
    "hidden_act": "silu",
    "use_sliding_window": False,
    "layer_types": ["full_attention"] * 3,
    "tie_word_embeddings": False,
}
OURO_NORMS = ("input_layernorm", "input_layernorm_2")
OURO_NORMS += ("post_attention_layernorm", "post_attention_layernorm_2")


def ouro_weights(values: dict[str, Any]) -> Weights:
    dim, hidden, width = values["hidden_size"], values["intermediate_size"], values["head_dim"]
    asks, shows = values["num_attention_heads"] * width, values["num_key_value_heads"] * width
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (values["vocab_size"], dim),
        "model.norm.weight": (dim,),
        "model.early_exit_gate.weight": (1, dim),
        "model.early_exit_gate.bias": (1,),
    }
    if not values["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (values["vocab_size"], dim)
    for i in range(values["num_hidden_layers"]):
        at = f"model.layers.{i}"
        shapes |= {f"{at}.{name}.weight": (dim,) for name in OURO_NORMS}
        shapes |= {
            f"{at}.self_attn.q_proj.weight": (asks, dim),
            f"{at}.self_attn.k_proj.weight": (shows, dim),
            f"{at}.self_attn.v_proj.weight": (shows, dim),
            f"{at}.self_attn.o_proj.weight": (dim, asks),
            f"{at}.mlp.gate_proj.weight": (hidden, dim),
            f"{at}.mlp.up_proj.weight": (hidden, dim),
            f"{at}.mlp.down_proj.weight": (dim, hidden),
        }
    return draw(shapes)


def ouro_states(w: Weights, values: dict[str, Any], ids: Tensor, loops: int) -> list[Tensor]:
    """h <- norm(stack(h)) from the embeddings: the states that the head and the gate read."""
    eps, width = values["rms_norm_eps"], values["head_dim"]

    def maps(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].t()

    def block(at: str, x: Tensor) -> Tensor:
        normed = rms(x, w[f"{at}.{OURO_NORMS[0]}.weight"], eps)
        q, k, v = (maps(normed, f"{at}.self_attn.{n}_proj").view(len(x), -1, width) for n in "qkv")
        q, k = (turn(part, values["rope_theta"], "halves") for part in (q, k))
        said = maps(attend(q, k, v), f"{at}.self_attn.o_proj")
        x = x + rms(said, w[f"{at}.{OURO_NORMS[1]}.weight"], eps)
        normed = rms(x, w[f"{at}.{OURO_NORMS[2]}.weight"], eps)
        said = silu(maps(normed, f"{at}.mlp.gate_proj")) * maps(normed, f"{at}.mlp.up_proj")
        return x + rms(maps(said, f"{at}.mlp.down_proj"), w[f"{at}.{OURO_NORMS[3]}.weight"], eps)

    h, states = w["model.embed_tokens.weight"][ids], []
    for _ in range(loops):
        for i in range(values["num_hidden_layers"]):
            h = block(f"model.layers.{i}", h)
        h = rms(h, w["model.norm.weight"], eps)
        states.append(h)
    return states


def ouro_logits(w: Weights, values: dict[str, Any], ids: Tensor, loops: int) -> Tensor:
    tied = values["tie_word_embeddings"]
    head = w["model.embed_tokens.weight" if tied else "lm_head.weight"]
    return ouro_states(w, values, ids, loops)[-1] @ head.t()


# -- Parcae --------------------------------------------------------------------------------------

PARCAE: dict[str, Any] = {
    "name": "tiny",
    "_class_name": "ParcaeConfig",
    "model_class_name": "Parcae",
    "n_embd": 16,
    "recurrent_embedding_dimension": 16,
    "intermediate_size": 24,
    "recurrent_intermediation_embedding_dimension": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "padded_vocab_size": 32,
    "block_size": 32,
    "n_layers_in_prelude": 1,
    "n_layers_in_recurrent_block": 2,
    "n_layers_in_coda": 2,
    "mean_recurrence": 4,
    "rope_settings": {"use_rope": True, "rope_condense_ratio": 1, "rope_base": 50000},
    "norm_eps": 1e-3,
    "injection_type": "diagonal",
    "mlp_class_name": "GatedMLP",
    "nonlin_name": "SiLU",
    "prelude_norm": True,
    "qk_norm": False,
    "qk_bias": False,
    "bias": False,
    "tie_embeddings": True,
}


def parcae_weights(values: dict[str, Any]) -> Weights:
    dim, hidden, heads = (
        values["n_embd"],
        values["intermediate_size"],
        values["num_attention_heads"],
    )
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (values["padded_vocab_size"], dim),
        "transformer.adapter.A_log": (dim,),
        "transformer.adapter.dt_bias": (dim,),
        "transformer.adapter.B": (dim, dim),
        "transformer.C.weight": (dim, dim),
        "transformer.ln_f.weight": (dim,),
    }
    if values["prelude_norm"]:
        shapes["transformer.ln_prelude.weight"] = (dim,)
    if not values["tie_embeddings"]:
        shapes["lm_head.weight"] = (values["padded_vocab_size"], dim)
    for stack, count in zip(STACKS, COUNTS, strict=True):
        for i in range(values[count]):
            at = f"transformer.{stack}.{i}"
            shapes |= {f"{at}.norm_{n}.weight": (dim,) for n in (1, 2)}
            shapes |= {f"{at}.attn.c_{n}.weight": (dim, dim) for n in ("q", "k", "v", "proj")}
            shapes |= {
                f"{at}.mlp.fc.weight": (2 * hidden, dim),
                f"{at}.mlp.proj.weight": (dim, hidden),
            }
            if values["qk_bias"]:
                shapes[f"{at}.attn.qk_bias"] = (2, 1, heads, dim // heads)
    weights = draw(shapes)
    weights["transformer.adapter.A_log"] -= 1.5  # a spread of decays, slow and fast
    return weights


def parcae_logits(w: Weights, values: dict[str, Any], ids: Tensor, loops: int) -> Tensor:
    """h <- core(exp(-dt a) h + dt B e), e = norm(prelude); logits = head(norm(coda(C h)))."""
    dim, heads, eps = values["n_embd"], values["num_attention_heads"], values["norm_eps"]
    base = values["rope_settings"]["rope_base"]

    def block(at: str, x: Tensor) -> Tensor:
        normed = rms(x, w[f"{at}.norm_1.weight"], eps)
        parts = (normed @ w[f"{at}.attn.c_{n}.weight"].t() for n in "qkv")
        q, k, v = (part.view(len(x), heads, -1) for part in parts)
        if values["qk_bias"]:
            q, k = q + w[f"{at}.attn.qk_bias"][0], k + w[f"{at}.attn.qk_bias"][1]
        q, k = turn(q, base, "neighbours"), turn(k, base, "neighbours")
        x = x + attend(q, k, v) @ w[f"{at}.attn.c_proj.weight"].t()
        both = rms(x, w[f"{at}.norm_2.weight"], eps) @ w[f"{at}.mlp.fc.weight"].t()
        gate, up = both.chunk(2, -1)
        return x + (silu(gate) * up) @ w[f"{at}.mlp.proj.weight"].t()

    def stack(name: str, count: str, x: Tensor) -> Tensor:
        for i in range(values[count]):
            x = block(f"transformer.{name}.{i}", x)
        return x

    e = stack("prelude", "n_layers_in_prelude", w["transformer.wte.weight"][ids])
    if values["prelude_norm"]:
        e = rms(e, w["transformer.ln_prelude.weight"], eps)
    dt = (1 + w["transformer.adapter.dt_bias"].exp()).log()
    decay = (-dt * w["transformer.adapter.A_log"].exp()).exp()
    h = (position_noise(torch.arange(len(ids)), dim) * (0.4 / dim) ** 0.5).to(e.dtype)
    for _ in range(loops):
        h = decay * h + dt * (e @ w["transformer.adapter.B"].t())
        h = stack("core_block", "n_layers_in_recurrent_block", h)
    h = stack("coda", "n_layers_in_coda", h @ w["transformer.C.weight"].t())
    head = w["transformer.wte.weight" if values["tie_embeddings"] else "lm_head.weight"]
    return rms(h, w["transformer.ln_f.weight"], eps) @ head.t()


FAMILIES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], Weights], Equations]] = {
    "huginn": (HUGINN, huginn_weights, huginn_logits),
    "ouro": (OURO, ouro_weights, ouro_logits),
    "parcae": (PARCAE, parcae_weights, parcae_logits),
}
