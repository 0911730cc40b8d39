"""Designs: published loops, and ours, as differences in the loop's parts; sizes are the caller's.

A design says what one loop computes and how blocks are normed. It is not a reproduction of a
published model: widths, attention, tokenizer and data are whatever the base config says, and
RMSNorm stands for every norm.
"""

from dataclasses import replace
from typing import Any

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import ConfigError, did_you_mean


# What all published designs have in common here: a dense core, no per-loop parts, the last state.
PLAIN: dict[str, Any] = {
    "core_ffn": "dense",
    "readout": "last",
    "loop_index": False,
    "loop_lora": False,
}

DESIGNS: dict[str, dict[str, Any]] = {
    # open-mythos 0.5.0: h <- A h + B e + f + lora(f, t), f = block(norm(h + index(t) + e)), with
    # A from 0.37, and the unnormalised ACT sum read.
    "om05": {
        "injection": "lti",
        "readout": "act_sum",
        "loop_index": True,
        "loop_lora": True,
    },
    # Parcae (arXiv 2604.12946): h <- block(A h + dt B e), A = exp(-dt a), e = norm(prelude),
    # B a matrix from identity; h_0 is noise.
    "parcae": {
        **PLAIN,
        "injection": "lti_first",
        "input_write": "euler",
        "input_matrix": True,
        "loop_norm": "none",
        "prelude_norm": True,
        "initial_state": "noise",
        "initial_std": 0.4**0.5,
    },
    # Huginn (arXiv 2502.05171): h <- core(W [h; e]), blocks normed before and behind each sum;
    # h_0 is noise of variance 2/5.
    "huginn": {
        **PLAIN,
        "injection": "concat_linear",
        "loop_norm": "none",
        "block_norm": "pre_post",
        "initial_state": "noise",
        "initial_std": 0.4**0.5,
    },
    # Ouro (arXiv 2510.25741): the whole stack is looped, h <- norm(stack(h)), sandwich-normed
    # blocks, h_0 the embeddings; no prelude, no coda, no input after the first loop.
    "ouro": {
        **PLAIN,
        "injection": "none",
        "loop_norm": "post",
        "block_norm": "sandwich",
        "prelude_layers": 0,
        "coda_layers": 0,
    },
    # Universal Transformer (arXiv 1807.03819): h <- block(h + P_t), post-normed, with the step's
    # signal in every channel (positions are RoPE's here); ACT per position.
    "universal": {
        "core_ffn": "dense",
        "injection": "none",
        "loop_norm": "none",
        "block_norm": "post",
        "readout": "act",
        "loop_index": True,
        "loop_lora": False,
        "prelude_layers": 0,
        "coda_layers": 0,
    },
    # Ours: a short linear carry (A near 0.01), anonymous loops, the last state. FIELD's probe and
    # the depth suite are where it comes from (docs/log.md).
    "mythos": {
        "injection": "lti",
        "lti_decay": 0.01,
        "readout": "last",
        "loop_index": False,
        "loop_lora": False,
    },
}


def design(name: str, base: MythosConfig) -> MythosConfig:
    """The design `name` at the sizes of `base`.

    What the design does not fix stays as in `base`; parts of the loop that it does not mention go
    back to their defaults. Layers that a design lacks outside of the loop (ouro, universal) move
    into the core, so that all designs on one base have equally many blocks.

    Raises:
        ConfigError: If there is no such design, or its parts do not fit the base.
    """
    if name not in DESIGNS:
        raise ConfigError(f"there is no design {name!r}; {did_you_mean(name, DESIGNS)}")
    parts = DESIGNS[name]
    moved = 0
    for stack in ("prelude_layers", "coda_layers"):
        moved += getattr(base, stack) if parts.get(stack) == 0 else 0
    changes: dict[str, Any] = {**DEFAULTS, "core_layers": base.core_layers + moved, **parts}
    if name == "universal":
        changes["loop_index_dim"] = base.dim
    return replace(base, **changes)


# The loop's parts: what a design decides, mentioned or not.
PARTS = (
    "injection",
    "input_write",
    "input_matrix",
    "loop_norm",
    "block_norm",
    "initial_state",
    "initial_std",
    "prelude_norm",
    "core_ffn",
    "untied_router",
    "untied_attention",
    "core_lora_rank",
    "loop_index_dim",
    "lti_decay",
)
DEFAULTS: dict[str, Any] = {name: getattr(MythosConfig(), name) for name in PARTS}
