"""MythosConfig: the fields of one recurrent-depth transformer, checked, without torch."""

import math
from dataclasses import dataclass, fields
from typing import Literal

from open_mythos.config.fields import INTEGER, REAL, CheckedFields, of_kind
from open_mythos.errors import ConfigError


AttentionType = Literal["gqa", "mla"]
Readout = Literal["act", "last", "act_last", "act_sum"]
InjectionType = Literal[
    "lti", "lti_first", "add", "none", "concat_linear", "damped", "substep", "hyper"
]
InputWrite = Literal["free", "euler", "zoh"]
LoopNorm = Literal["none", "pre", "post", "sandwich"]
BlockNorm = Literal["pre", "post", "sandwich", "pre_post"]
InitialState = Literal["input", "zeros", "noise", "learned"]
CodaInput = Literal["plain", "norm", "linear"]
CoreFFN = Literal["moe", "dense"]
LoopsBeyond = Literal["continue", "hold", "cycle"]
Halted = Literal["continue", "freeze"]
KVMode = Literal["per_loop", "first", "last"]

# exp(-1): the start of A in the seed design. A start near 0.01 is what extrapolates in depth.
SEED_LTI_DECAY = math.exp(-1.0)
# Widths that are no multiple of 64 ran 4 to 6 times slower on Hopper (bf16 rows miss alignment).
WIDTH_MULTIPLE = 64


@dataclass
class MythosConfig(CheckedFields):
    """Every choice that fixes a network; assignable, and checked again when a model is built.

    The first block of fields and its defaults are those of the public open-mythos 0.5.0 design.
    The second block are this library's own: the loop's choices as data.

    Attributes:
        vocab_size: Rows of the embedding.
        dim: Width of the residual stream.
        n_heads: Query heads.
        n_kv_heads: Key/value heads of grouped-query attention; MLA ignores it.
        max_seq_len: Positions a sequence may have, prompt and generation together.
        max_loop_iters: Loops that a forward pass runs unless told otherwise.
        prelude_layers: Dense blocks before the loop.
        coda_layers: Dense blocks after the loop.
        attn_type: "mla" (latent attention) or "gqa" (grouped-query attention).
        kv_lora_rank: MLA: width of the cached key/value latent.
        q_lora_rank: MLA: width of the query latent.
        qk_rope_head_dim: MLA: rotated width per head, one key shared by all heads; even.
        qk_nope_head_dim: MLA: unrotated query/key width per head.
        v_head_dim: MLA: value width per head.
        n_experts: Routed experts of the recurrent block.
        n_shared_experts: Always-on experts, each of width expert_dim * n_experts_per_tok.
        n_experts_per_tok: Routed experts that each token visits.
        expert_dim: Hidden width of one routed expert.
        act_threshold: Cumulative halting probability at which a position halts, in (0, 1].
        rope_theta: Base of the rotary frequencies.
        lora_rank: Rank of the per-loop adapter.
        max_output_tokens: Most tokens that one `generate` call may add.
        dropout: Residual and attention dropout while training, in [0, 1).
        dense_hidden: Hidden width of the dense blocks; None is dim * 4 // 3 rounded up to 64.
        head_width: GQA: width of one head; None is dim / n_heads.
        attention_bias: GQA: whether queries, keys and values have biases (Qwen2).
        qk_norm: GQA: RMSNorm of each query and key before it is rotated (Qwen3).
        norm_eps: What every RMSNorm adds to the mean square.
        tied_head: Whether the head's weight is the embedding's.
        readout: What the coda reads. "act": the halting-weighted mean of the loop states;
            "last": the state after the last loop, halting plays no part; "act_last": the state
            with which a position halts, or its last; "act_sum": the unnormalised sum of
            open-mythos 0.5.0, for its checkpoints.
        injection: State update, f being what the block says of h + e unless another argument is
            named. "lti": h <- A h + B e + f; "lti_first": h <- block(A h + B e); "add": h <- f;
            "none": h <- block(h); "concat_linear": h <- block(W [h; e]); "damped": h <- (1 -
            damping) h + damping f; "substep": the same with f = block(h); "hyper": several
            streams of state, hyper-connected.
        input_write: What the input writes in an lti step dt. "free": B itself (open-mythos 0.5.0);
            "euler": dt B; "zoh": (1 - A) / a B, the exact integral.
        input_matrix: Whether B of an lti injection is a full matrix, identity at the start.
        damping: Step length of the damped injection and of substeps, in (0, 1].
        streams: States side by side of the hyper injection.
        loop_norm: RMSNorm at the loop's border: "pre", of what the block reads; "post", of the
            next state; "sandwich", both; "none".
        block_norm: RMSNorms of every block. "pre": x + f(norm(x)); "post": norm(x + f(x));
            "sandwich": x + norm(f(norm(x))); "pre_post": norm(x + f(norm(x))).
        initial_state: State before the first loop: the loop's "input" e, "zeros", one "learned"
            vector, or "noise" (of initial_std; in evaluation a fixed function of the position).
        initial_std: Standard deviation of that noise.
        prelude_norm: Whether what the prelude says is normed before the loop sees it.
        coda_input: What becomes of the readout before the coda: "plain", nothing; "norm", an
            RMSNorm (Huginn); "linear", a square map (Parcae).
        last_norm: Whether the head reads through a norm; a loop that ends in one may do without.
        core_layers: Blocks that one loop runs, one after the other, each with its own cache.
        core_ffn: Feed-forward of those blocks: "moe", or "dense" of width dense_width.
        untied_router: Whether every loop up to max_loop_iters has a router of its own.
        untied_attention: The same of attention layers; a compiled loop then needs a graph each.
        loops_beyond: What loops past max_loop_iters get. "continue": the loop index counts on, and
            adapter and untied parts stay at their last; "hold": all stay at the last; "cycle": all
            begin again.
        halted: What a halted position does. "continue": its output is fixed, its state goes on;
            "freeze": its state, keys and values stay as they were when it halted.
        kv: Keys and values across loops. "per_loop": every loop attends to its own; "first": the
            first loop's serve all loops, in training too, so that the cache does not grow with
            depth; "last": trained as "per_loop", but the cache keeps only what the last loop
            wrote: an approximation at inference, exempt from cached = uncached.
        lti_decay: Start of A in the lti injection, in (0, 1).
        loop_index: Whether the loop number is signalled, in the first loop_index_dim channels.
        loop_index_dim: Those channels; None is dim // 8.
        loop_index_scale: Amplitude of that signal.
        loop_lora: Whether the block output gets a per-loop low-rank correction.
        init_std: Standard deviation of every Linear and Embedding at the start.
        embed_init_std: The embedding's own start; None is init_std.
        last_norm_init: Start of the last norm's weight, which scales the first logits;
            1 / sqrt(dim) goes with an embedding of unit variance.
    """

    vocab_size: int = 32000
    dim: int = 2048
    n_heads: int = 16
    n_kv_heads: int = 4
    max_seq_len: int = 4096
    max_loop_iters: int = 16
    prelude_layers: int = 2
    coda_layers: int = 2
    attn_type: AttentionType = "mla"
    kv_lora_rank: int = 512
    q_lora_rank: int = 1536
    qk_rope_head_dim: int = 64
    qk_nope_head_dim: int = 128
    v_head_dim: int = 128
    n_experts: int = 64
    n_shared_experts: int = 2
    n_experts_per_tok: int = 4
    expert_dim: int = 512
    act_threshold: float = 0.99
    rope_theta: float = 500000.0
    lora_rank: int = 16
    max_output_tokens: int = 4096
    dropout: float = 0.0

    dense_hidden: int | None = None
    head_width: int | None = None
    attention_bias: bool = False
    qk_norm: bool = False
    norm_eps: float = 1e-6
    tied_head: bool = True
    readout: Readout = "act"
    injection: InjectionType = "lti"
    input_write: InputWrite = "free"
    input_matrix: bool = False
    damping: float = 0.95
    streams: int = 4
    loop_norm: LoopNorm = "pre"
    block_norm: BlockNorm = "pre"
    initial_state: InitialState = "input"
    initial_std: float = 1.0
    prelude_norm: bool = False
    coda_input: CodaInput = "plain"
    last_norm: bool = True
    core_layers: int = 1
    core_ffn: CoreFFN = "moe"
    untied_router: bool = False
    untied_attention: bool = False
    loops_beyond: LoopsBeyond = "continue"
    halted: Halted = "continue"
    kv: KVMode = "per_loop"
    lti_decay: float = SEED_LTI_DECAY
    loop_index: bool = True
    loop_index_dim: int | None = None
    loop_index_scale: float = 1.0
    loop_lora: bool = True
    init_std: float = 0.02
    embed_init_std: float | None = None
    last_norm_init: float = 1.0

    # -- derived sizes ---------------------------------------------------------------------------

    @property
    def head_dim(self) -> int:
        """Width of one head under grouped-query attention."""
        return self.dim // self.n_heads if self.head_width is None else self.head_width

    @property
    def rope_dim(self) -> int:
        """Width that is rotated in each head, whichever attention is chosen."""
        return self.qk_rope_head_dim if self.attn_type == "mla" else self.head_dim

    @property
    def loop_dim(self) -> int:
        """Leading channels that carry the loop index, with the default resolved."""
        return self.dim // 8 if self.loop_index_dim is None else self.loop_index_dim

    @property
    def dense_width(self) -> int:
        """Hidden width of the dense blocks, with the default resolved."""
        if self.dense_hidden is not None:
            return self.dense_hidden
        return -(-(self.dim * 4 // 3) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE

    @property
    def shared_width(self) -> int:
        """Hidden width of one always-on expert."""
        return self.expert_dim * self.n_experts_per_tok

    @property
    def cache_widths(self) -> dict[str, tuple[int, ...]]:
        """What one layer caches per token: entry name -> shape of one position."""
        if self.attn_type == "mla":
            return {"c_kv": (self.kv_lora_rank,), "k_rope": (self.qk_rope_head_dim,)}
        heads = (self.n_kv_heads, self.head_dim)
        return {"k": heads, "v": heads}

    @property
    def loop_widths(self) -> dict[str, tuple[int, ...]]:
        """What the core caches per token in one loop: the entries of its layers, side by side."""
        layers = range(self.core_layers)
        return {layer_name(n, i): w for i in layers for n, w in self.cache_widths.items()}

    def loop_row(self, loop_t: int) -> int:
        """The row that loop `loop_t`, from 0, has in tables of max_loop_iters rows."""
        rows = self.max_loop_iters
        return loop_t % rows if self.loops_beyond == "cycle" else min(loop_t, rows - 1)

    def loop_slots(self, n_loops: int) -> int:
        """Cache slots that `n_loops` loops share or fill."""
        return n_loops if self.kv == "per_loop" else 1

    # -- validation ------------------------------------------------------------------------------

    def validate(self) -> None:
        """Refuse what cannot be built.

        Raises:
            ConfigError: Naming the field, its value and the way out.
        """
        self.check_kinds()
        self.check_least(MAY_BE_ZERO)
        self._check_ranges()
        self._check_attention()
        self._check_loop()
        if self.n_experts_per_tok > self.n_experts:
            raise ConfigError(
                f"n_experts_per_tok ({self.n_experts_per_tok}) exceeds n_experts "
                f"({self.n_experts}); a token cannot visit more experts than there are"
            )

    def _check_ranges(self) -> None:
        if not 0.0 < self.act_threshold <= 1.0:
            raise ConfigError(
                f"act_threshold is {self.act_threshold}; it must lie in (0, 1] "
                "(readout='last' runs every loop without halting)"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout is {self.dropout}; it must lie in [0, 1)")
        if not 0.0 < self.lti_decay < 1.0:
            raise ConfigError(f"lti_decay is {self.lti_decay}; it must lie strictly inside (0, 1)")
        self.check_signs(("rope_theta", "norm_eps"), NOT_NEGATIVE)

    def _check_loop(self) -> None:
        if not 0.0 < self.damping <= 1.0:
            raise ConfigError(
                f"damping is {self.damping}; it must lie in (0, 1], 1 being a full step"
            )
        if self.loop_dim > self.dim:
            raise ConfigError(
                f"loop_index_dim is {self.loop_index_dim}; it can be at most dim ({self.dim})"
            )
        if self.input_matrix and self.injection not in ("lti", "lti_first"):
            raise ConfigError(
                f"input_matrix belongs to the lti injections, not to {self.injection!r}; leave it "
                "out, or take injection='lti' or 'lti_first'"
            )
        if self.untied_router and self.core_ffn == "dense":
            raise ConfigError(
                "untied_router is True, but core_ffn is 'dense', which has no router; drop one"
            )

    def _check_attention(self) -> None:
        grouped = {n: getattr(self, n) for n in ("head_width", "attention_bias", "qk_norm")}
        for name, value in grouped.items():
            if value and self.attn_type != "gqa":
                raise ConfigError(
                    f"{name} is {value}, which is grouped-query attention's; leave it out, or take "
                    "attn_type='gqa'"
                )
        if self.dim % self.n_heads and self.head_width is None:
            raise ConfigError(
                f"n_heads ({self.n_heads}) must divide dim ({self.dim}); "
                f"the remainder is {self.dim % self.n_heads}"
            )
        if self.attn_type == "gqa":
            if self.n_heads % self.n_kv_heads:
                raise ConfigError(
                    f"n_kv_heads ({self.n_kv_heads}) must divide n_heads ({self.n_heads}): "
                    "each key/value head serves the same number of query heads"
                )
            if self.head_dim % 2:
                raise ConfigError(
                    f"a head is {self.head_dim} wide (head_width, or dim / n_heads); RoPE rotates "
                    "pairs, so it must be even"
                )
        elif self.qk_rope_head_dim % 2:
            raise ConfigError(
                f"qk_rope_head_dim is {self.qk_rope_head_dim}; RoPE rotates pairs, "
                "so it must be even"
            )


def layer_name(entry: str, layer: int) -> str:
    """The name of a cache entry of the core's layer `layer`; the first one's stays as it is."""
    return f"{entry}.{layer}" if layer else entry


FIELDS = tuple(f.name for f in fields(MythosConfig))
INTEGERS = of_kind(MythosConfig, *INTEGER)
REALS = of_kind(MythosConfig, *REAL)
MAY_BE_ZERO = ("prelude_layers", "coda_layers", "n_shared_experts", "loop_index_dim")
NOT_NEGATIVE = ("init_std", "embed_init_std", "loop_index_scale", "last_norm_init", "initial_std")
