"""The seed family mythos_1b ... mythos_1t, as differences from one base."""

from collections.abc import Callable

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


PRESETS: dict[str, Callable[[], MythosConfig]] = {
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


def preset(name: str) -> MythosConfig:
    """The named preset's config, fresh.

    Raises:
        ConfigError: If no preset has that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset is called {name!r}; {did_you_mean(name, PRESETS)}")
    return PRESETS[name]()
