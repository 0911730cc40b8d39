"""Parcae (arXiv 2604.12946): settings and names, of the variants that our parts can say.

The published checkpoints are none of these: they have value embeddings, a ReLU^2 feed-forward and
normed queries and keys, and are refused by name.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from open_mythos.checkpoint.foreign.source import Settings, Weights, head, layer_names, no_gate
from open_mythos.config.designs import design
from open_mythos.config.mythos import MythosConfig


MODEL_TYPES = ("parcae", "Parcae", "ParcaeConfig", "ParcaeForCausalLM")


def config(said: Settings) -> MythosConfig:
    """The network of a config.json.

    Raises:
        CheckpointError: If its equations are not those of our parts.
    """
    dim, heads = said.whole("n_embd"), said.whole("num_attention_heads")
    hidden = said.whole("intermediate_size")
    for key, allowed, absent in (
        ("mlp_class_name", "GatedMLP", "BaseMLP"),
        ("nonlin_name", "SiLU", "ReLU2"),
        ("qk_norm", False, False),
        ("block_class_name", "TransformerPreNormBlock", "TransformerPreNormBlock"),
        ("norm_class_name", "RMSNorm", "RMSNorm"),
        ("injection_type", "diagonal", "diagonal"),
        ("bias", False, False),
        ("clip_qkv", None, None),
        ("logit_softcap", None, None),
        ("mup_model_scaling_factor", 1, 1),
        ("recurrent_embedding_dimension", dim, dim),
        ("recurrent_intermediation_embedding_dimension", hidden, hidden),
        ("num_key_value_heads", heads, heads),
    ):
        said.must(key, allowed, absent=absent)
    said.must("recurrent_num_attention_heads", heads, None, absent=None)
    rope: Any = Settings(said.values.get("rope_settings") or said.values, said.family)
    rope.must("use_rope", True, absent=True)
    rope.must("rope_condense_ratio", 1, absent=1)
    base = MythosConfig(
        vocab_size=said.whole("padded_vocab_size", said.whole("vocab_size")),
        dim=dim,
        n_heads=heads,
        n_kv_heads=heads,
        max_seq_len=said.whole("block_size"),
        max_loop_iters=said.whole("mean_recurrence"),
        prelude_layers=said.whole("n_layers_in_prelude"),
        core_layers=said.whole("n_layers_in_recurrent_block"),
        coda_layers=said.whole("n_layers_in_coda"),
        attn_type="gqa",
        dense_hidden=hidden,
        rope_theta=rope.real("rope_base", 50000.0),
        norm_eps=said.real("norm_eps", 1e-5),
        attention_bias=said.flag("qk_bias", default=False),
        tied_head=said.flag("tie_embeddings", default=False),
        coda_input="linear",
    )
    return replace(
        design("parcae", base),
        prelude_norm=said.flag("prelude_norm", default=False),
        input_write="free",
        initial_std=(0.4 / dim) ** 0.5,
    )


def weights(said: Settings, given: Weights, cfg: MythosConfig) -> dict[str, Tensor]:  # noqa: ARG001
    """The state of our network.

    Their step is one number per channel, ours one for all: A = exp(-dt a) keeps dt a as one
    number, and the matrix B takes dt in (`input_write` "free").

    Raises:
        CheckpointError: Naming the key that is missing or has another shape.
    """
    whole = "transformer"
    table = given.take(f"{whole}.wte.weight", cfg.vocab_size, cfg.dim)
    step = F.softplus(given.take(f"{whole}.adapter.dt_bias", cfg.dim).double())
    rate = given.take(f"{whole}.adapter.A_log", cfg.dim).double() + step.log()
    written = given.take(f"{whole}.adapter.B", cfg.dim, cfg.dim).double() * step.unsqueeze(-1)
    # The products with dt are ours: rounded to 16 bits, they would move what theirs says.
    wide = torch.promote_types(table.dtype, torch.float32)
    out = {
        "embed.weight": table,
        "norm.weight": given.take(f"{whole}.ln_f.weight", cfg.dim),
        "coda_input.weight": given.take(f"{whole}.C.weight", cfg.dim, cfg.dim),
        "recurrent.injection.log_A": rate.to(wide),
        "recurrent.injection.log_dt": torch.zeros(1, dtype=wide),
        "recurrent.injection.B": written.to(wide),
        **head(given, cfg, f"{whole}.wte.weight"),
        **no_gate(table, cfg.dim),
    }
    given.pass_over("freqs_cis")
    if cfg.prelude_norm:
        norm = given.take(f"{whole}.ln_prelude.weight", cfg.dim)
        out["recurrent.input_norm.weight"] = norm
    for theirs, ours in layer_names(cfg):
        out |= _block(given, f"{whole}.{theirs}", ours, cfg)
    return out


def _block(given: Weights, theirs: str, ours: str, cfg: MythosConfig) -> dict[str, Tensor]:
    """One block; the pairs that rotate lie side by side, as ours do."""
    dim, hidden = cfg.dim, cfg.dense_width
    qkv = [given.take(f"{theirs}.attn.c_{name}.weight", dim, dim) for name in "qkv"]
    out = {
        f"{ours}.attn_norm.weight": given.take(f"{theirs}.norm_1.weight", dim),
        f"{ours}.ffn_norm.weight": given.take(f"{theirs}.norm_2.weight", dim),
        f"{ours}.attn.wqkv.weight": torch.cat(qkv),
        f"{ours}.attn.wo.weight": given.take(f"{theirs}.attn.c_proj.weight", dim, dim),
        f"{ours}.ffn.gate_up.weight": given.take(f"{theirs}.mlp.fc.weight", 2 * hidden, dim),
        f"{ours}.ffn.down.weight": given.take(f"{theirs}.mlp.proj.weight", dim, hidden),
    }
    if cfg.attention_bias:
        bias = given.take(f"{theirs}.attn.qk_bias", 2, 1, cfg.n_heads, cfg.head_dim).flatten()
        out[f"{ours}.attn.bias"] = torch.cat((bias, torch.zeros(dim, dtype=bias.dtype)))
    return out
