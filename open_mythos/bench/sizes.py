"""Named sizes: a network, and the shapes it is measured at."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from open_mythos.config.mythos import AttentionType, MythosConfig
from open_mythos.config.presets import mythos_1b
from open_mythos.errors import InputError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Size:
    """One size.

    Attributes:
        name: What results call it.
        model: The network, with either attention.
        batch: Rows of a training step and of a prefill.
        seq_len: Positions of each of them.
        context: Cached positions before a decoded token.
        loops: Loops, pinned.
        decode_batches: Rows decoded together.
        largest: Whether training looks for the largest batch that fits, from `batch` down.
        prompt_rows: Rows of a prefill, where `batch` of them is too much work; None is `batch`.
    """

    name: str
    model: MythosConfig
    batch: int
    seq_len: int
    context: int
    loops: int
    decode_batches: tuple[int, ...]
    largest: bool = False
    prompt_rows: int | None = None

    def config(self, attn: AttentionType | str, **changes: Any) -> MythosConfig:
        """The network with this attention and other fields as given."""
        return MythosConfig.from_dict({**self.model.to_dict(), "attn_type": attn, **changes})

    @property
    def shape(self) -> dict[str, int]:
        """Batch, length and loops of a training step, for a row of results."""
        return {"batch": self.batch, "seq_len": self.seq_len, "loops": self.loops}


def size_r() -> Size:
    """The research size: dim 1024, 32 experts, 119M parameters; 32 rows of 1024 positions."""
    model = MythosConfig(
        vocab_size=32000,
        dim=1024,
        max_loop_iters=8,
        kv_lora_rank=256,
        q_lora_rank=512,
        qk_rope_head_dim=32,
        qk_nope_head_dim=64,
        v_head_dim=64,
        n_experts=32,
        n_shared_experts=1,
    )
    return Size(
        name="R",
        model=model,
        batch=32,
        seq_len=1024,
        context=2048,
        loops=8,
        decode_batches=(1, 8, 64),
    )


def size_cpu(dim: int = 256) -> Size:
    """Size R made narrow for two CPU cores: 16 experts, 4 loops, 4 rows of 128 positions.

    Heads keep their width of 64; the vocabulary is the 1024 tokens of the bundled plays.
    """
    heads = dim // 64
    model = replace(
        size_r().model,
        vocab_size=1024,
        dim=dim,
        n_heads=heads,
        n_kv_heads=heads // 4,
        max_seq_len=512,
        max_loop_iters=4,
        kv_lora_rank=dim // 4,
        q_lora_rank=dim // 2,
        n_experts=16,
        expert_dim=dim // 2,
        max_output_tokens=512,
    )
    return Size(
        name="cpu" if dim == 256 else f"cpu-{dim}",
        model=model,
        batch=4,
        seq_len=128,
        context=128,
        loops=4,
        decode_batches=(1, 8),
    )


def size_cpu_512() -> Size:
    """The CPU size at twice the width."""
    return size_cpu(512)


def size_1b() -> Size:
    """The preset mythos_1b: 16 loops, 1024 positions, as many rows as fit."""
    return Size(
        name="1b",
        model=mythos_1b(),
        batch=128,
        seq_len=1024,
        context=2048,
        loops=16,
        decode_batches=(1, 8, 64),
        largest=True,
        prompt_rows=16,
    )


def size_tiny() -> Size:
    """Nothing to measure: for tests, and for seeing a suite run through in seconds."""
    model = MythosConfig(
        vocab_size=64,
        dim=32,
        n_heads=8,
        n_kv_heads=4,
        max_seq_len=160,
        max_loop_iters=2,
        prelude_layers=1,
        coda_layers=1,
        kv_lora_rank=8,
        q_lora_rank=16,
        qk_rope_head_dim=2,
        qk_nope_head_dim=4,
        v_head_dim=4,
        n_experts=4,
        n_shared_experts=1,
        n_experts_per_tok=2,
        expert_dim=16,
        lora_rank=4,
        max_output_tokens=160,
    )
    return Size(
        name="tiny", model=model, batch=2, seq_len=16, context=8, loops=2, decode_batches=(1,)
    )


SIZES: dict[str, Callable[[], Size]] = {
    "R": size_r,
    "cpu": size_cpu,
    "cpu-512": size_cpu_512,
    "1b": size_1b,
    "tiny": size_tiny,
}


def size(name: str) -> Size:
    """The named size.

    Raises:
        InputError: If no size has that name.
    """
    if name not in SIZES:
        raise InputError(f"no size is called {name!r}; {did_you_mean(name, SIZES)}")
    return SIZES[name]()
