"""Named networks: our own small ones, and the seed family mythos_1b ... mythos_1t."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from open_mythos.config.designs import design
from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import ConfigError, did_you_mean


MILLION_CONTEXT = 1_000_000


def mythos_1b() -> MythosConfig:
    """About 1B parameters: dim 2048, 64 experts, 16 loops, 4k context."""
    return MythosConfig(
        kv_lora_rank=256,
        q_lora_rank=512,
        qk_rope_head_dim=32,
        qk_nope_head_dim=64,
        v_head_dim=64,
        expert_dim=2048,
        lora_rank=8,
    )


def mythos_3b() -> MythosConfig:
    """About 3B parameters: dim 3072, 64 experts, 16 loops, 4k context."""
    return MythosConfig(
        dim=3072,
        n_heads=24,
        n_kv_heads=6,
        kv_lora_rank=384,
        q_lora_rank=768,
        qk_rope_head_dim=32,
        qk_nope_head_dim=96,
        v_head_dim=96,
        expert_dim=4096,
        lora_rank=8,
    )


def mythos_10b() -> MythosConfig:
    """About 10B parameters: dim 4096, 128 experts, 24 loops, 8k context."""
    return MythosConfig(
        dim=4096,
        n_heads=32,
        n_kv_heads=8,
        max_seq_len=8192,
        max_loop_iters=24,
        q_lora_rank=1024,
        n_experts=128,
        expert_dim=5632,
    )


def mythos_50b() -> MythosConfig:
    """About 50B parameters: dim 6144, 256 experts, 32 loops, 8k context."""
    return MythosConfig(
        dim=6144,
        n_heads=48,
        n_kv_heads=8,
        max_seq_len=8192,
        max_loop_iters=32,
        prelude_layers=3,
        coda_layers=3,
        n_experts=256,
        n_shared_experts=4,
        expert_dim=9728,
        lora_rank=32,
    )


def mythos_100b() -> MythosConfig:
    """About 100B parameters: dim 8192, 256 experts, 32 loops, 1M context."""
    return MythosConfig(
        dim=8192,
        n_heads=64,
        n_kv_heads=8,
        max_seq_len=MILLION_CONTEXT,
        max_loop_iters=32,
        prelude_layers=4,
        coda_layers=4,
        q_lora_rank=2048,
        n_experts=256,
        n_shared_experts=4,
        n_experts_per_tok=8,
        expert_dim=13568,
        rope_theta=1_000_000.0,
        lora_rank=64,
        max_output_tokens=131072,
    )


def mythos_500b() -> MythosConfig:
    """About 500B parameters: dim 12288, 512 experts, 48 loops, 1M context."""
    return MythosConfig(
        vocab_size=100_000,
        dim=12288,
        n_heads=96,
        n_kv_heads=16,
        max_seq_len=MILLION_CONTEXT,
        max_loop_iters=48,
        prelude_layers=4,
        coda_layers=4,
        kv_lora_rank=1024,
        q_lora_rank=3072,
        n_experts=512,
        n_shared_experts=8,
        n_experts_per_tok=8,
        expert_dim=23040,
        rope_theta=1_000_000.0,
        lora_rank=128,
        max_output_tokens=131072,
    )


def mythos_1t() -> MythosConfig:
    """About 1T parameters: dim 16384, 512 experts, 64 loops, 1M context."""
    return MythosConfig(
        vocab_size=100_000,
        dim=16384,
        n_heads=128,
        n_kv_heads=16,
        max_seq_len=MILLION_CONTEXT,
        max_loop_iters=64,
        prelude_layers=6,
        coda_layers=6,
        kv_lora_rank=1024,
        q_lora_rank=4096,
        n_experts=512,
        n_shared_experts=8,
        n_experts_per_tok=8,
        expert_dim=34560,
        rope_theta=2_000_000.0,
        lora_rank=256,
        max_output_tokens=131072,
    )


def own(dim: int, **sizes: Any) -> MythosConfig:
    """What our own networks share: a short linear carry, anonymous loops, the last state.

    Weights start from N(0, 0.02), as the config's defaults have it: text wants that, where small
    networks for tasks want 1 / sqrt(dim) (`small` in train/networks.py). 13M tokens at dim 512
    ended at a perplexity of 26.1 from 0.02 and of 34.0 from 1 / sqrt(dim), embeddings of unit
    variance with it (docs/log.md).
    """
    base = MythosConfig(
        dim=dim,
        n_heads=dim // 64,
        n_kv_heads=max(dim // 256, 1),
        attn_type="gqa",
        **sizes,
    )
    return design("mythos", base)


def mythos_nano() -> MythosConfig:
    """About 5M parameters, for a CPU: dim 256, a dense core of two layers, 6 loops, 8k tokens.

    Of ten arrangements of 4M to 5M parameters on 18M tokens of English and documentation, one seed
    each, a dense core of two layers between one and one did best at 6 loops, with the fewest
    parameters: 5.068 nats, beside 5.15 with experts in the core and 5.14 with one layer of them
    between two and two (docs/log.md).
    """
    model = own(
        256,
        vocab_size=8192,
        max_loop_iters=6,
        max_seq_len=2048,
        max_output_tokens=2048,
        prelude_layers=1,
        coda_layers=1,
        core_layers=2,
        dense_hidden=704,
    )
    return replace(model, core_ffn="dense")


def mythos_mini() -> MythosConfig:
    """About 30M parameters: mythos_nano's arrangement at dim 512, two and two around the core."""
    model = own(512, vocab_size=16384, max_loop_iters=6, core_layers=2, dense_hidden=2048)
    return replace(model, core_ffn="dense")


def mythos_small() -> MythosConfig:
    """About 120M parameters: dim 1024, 32 experts, 8 loops; what the recipe text-120m trains."""
    return own(1024, max_loop_iters=8, n_experts=32, n_shared_experts=1, expert_dim=512)


OWN: dict[str, Callable[[], MythosConfig]] = {
    build.__name__: build for build in (mythos_nano, mythos_mini, mythos_small)
}
SEED: dict[str, Callable[[], MythosConfig]] = {
    build.__name__: build
    for build in (
        mythos_1b,
        mythos_3b,
        mythos_10b,
        mythos_50b,
        mythos_100b,
        mythos_500b,
        mythos_1t,
    )
}


PRESETS = OWN | SEED


def preset(name: str) -> MythosConfig:
    """The named preset's config, fresh.

    Raises:
        ConfigError: If no preset has that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset is called {name!r}; {did_you_mean(name, PRESETS)}")
    return PRESETS[name]()
