"""What a network costs, from its config alone: parameters, FLOPs per token, cache bytes."""

import math
from dataclasses import asdict, dataclass, replace

from open_mythos.config.mythos import AttentionType, MythosConfig
from open_mythos.errors import ConfigError, InputError


@dataclass(frozen=True)
class ParameterBudget:
    """Parameters by part; the parts are disjoint and their sum is the built model's count.

    Attributes:
        embedding: Token table, also the head; a head that is not tied counts beside it.
        prelude: Linear weights of the dense blocks before the loop.
        loop_attention: Linear weights of the core's attention, those that single loops have of
            their own included.
        loop_dense: The core's dense feed-forward, where it has one instead of experts.
        router: Expert scores, those of single loops included; the selection bias is a buffer and
            not counted.
        routed_experts: All routed experts.
        shared_experts: The always-on experts.
        adapter: The per-loop low-rank correction, with the scales of every loop; and every loop's
            corrections of the core's maps.
        injection: What the state update learns, and a learned initial state.
        halting: The halting probability's weights; present with every readout.
        coda: Linear weights of the dense blocks after the loop, and of a map before them.
        norms: Every RMSNorm gain, those inside attention and its biases included.
        inactive: What one token does not meet in one loop: experts that it does not visit, routers,
            attention and corrections of other loops.
    """

    embedding: int
    prelude: int
    loop_attention: int
    loop_dense: int
    router: int
    routed_experts: int
    shared_experts: int
    adapter: int
    injection: int
    halting: int
    coda: int
    norms: int
    inactive: int

    @property
    def total(self) -> int:
        """All trained parameters."""
        return sum(self.parts().values())

    @property
    def active(self) -> int:
        """Parameters that one token multiplies with in one pass, each counted once.

        The looped block is counted once however often it runs: this is weight traffic, not
        work (for work see `flops_per_token`). Of the routed experts it holds the
        n_experts_per_tok of one loop; a token that changes experts between loops touches more.
        """
        return self.total - self.inactive

    @property
    def looped(self) -> int:
        """Parameters of what is looped, norms apart; less `inactive`, those of one loop's work."""
        experts = self.router + self.routed_experts + self.shared_experts
        block = self.loop_attention + self.loop_dense + experts
        return block + self.adapter + self.injection + self.halting

    def parts(self) -> dict[str, int]:
        """Part name -> parameters, in the order a token meets them; sums to `total`."""
        values = asdict(self)
        del values["inactive"]
        return values


@dataclass(frozen=True)
class FlopBudget:
    """Forward FLOPs of one token, two for each multiply-add of a matrix product.

    Attributes:
        prelude: The dense blocks before the loop.
        loops: The looped block, adapter and halting included, over all loops.
        coda: The dense blocks after the loop.
        head: The product with the tied embedding.
    """

    prelude: float
    loops: float
    coda: float
    head: float

    @property
    def total(self) -> float:
        """FLOPs of the whole forward pass for one token."""
        return self.prelude + self.loops + self.coda + self.head


def parameters(cfg: MythosConfig) -> ParameterBudget:
    """Count the parameters of the model that the config builds."""
    layers, moe = cfg.core_layers, cfg.core_ffn == "moe"
    experts = layers * cfg.n_experts * moe
    expert = 3 * cfg.dim * cfg.expert_dim
    attention, dense = attention_weights(cfg), 3 * cfg.dim * cfg.dense_width
    dense_block = attention + dense
    inside = attention_vectors(cfg)
    attentions = layers * (cfg.max_loop_iters if cfg.untied_attention else 1)
    routers = cfg.max_loop_iters if cfg.untied_router else 1
    adapter = (2 * cfg.dim * cfg.lora_rank + cfg.max_loop_iters * cfg.lora_rank) * cfg.loop_lora
    corrections = layers * correction_weights(cfg)
    return ParameterBudget(
        embedding=cfg.vocab_size * cfg.dim * (1 if cfg.tied_head else 2),
        prelude=cfg.prelude_layers * dense_block,
        loop_attention=attentions * attention,
        loop_dense=0 if moe else layers * dense,
        router=routers * experts * cfg.dim,
        routed_experts=experts * expert,
        shared_experts=layers * moe * cfg.n_shared_experts * 3 * cfg.dim * cfg.shared_width,
        adapter=adapter + cfg.max_loop_iters * corrections,
        injection=injection_parameters(cfg) + cfg.dim * (cfg.initial_state == "learned"),
        halting=cfg.dim + 1,
        coda=cfg.coda_layers * dense_block + entry_weights(cfg),
        norms=norm_gains(cfg) + inside * (cfg.prelude_layers + attentions + cfg.coda_layers),
        inactive=layers * moe * (cfg.n_experts - cfg.n_experts_per_tok) * expert
        + (routers - 1) * experts * cfg.dim
        + (attentions - layers) * (attention + inside)
        + (cfg.max_loop_iters - 1) * corrections,
    )


def core_maps(cfg: MythosConfig) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each linear map of a dense block with grouped-query attention."""
    heads, width = cfg.n_heads * cfg.head_dim, cfg.dense_width
    return {
        "wqkv": (heads + 2 * cfg.n_kv_heads * cfg.head_dim, cfg.dim),
        "wo": (cfg.dim, heads),
        "gate_up": (2 * width, cfg.dim),
        "down": (cfg.dim, width),
    }


def correction_weights(cfg: MythosConfig) -> int:
    """Weights of one loop's corrections of one layer."""
    sides = core_maps(cfg).values() if cfg.core_lora_rank else ()
    return sum(min(cfg.core_lora_rank, *pair) * sum(pair) for pair in sides)


def injection_parameters(cfg: MythosConfig) -> int:
    """Parameters of the state update."""
    if cfg.injection in ("lti", "lti_first"):
        return cfg.dim + 1 + cfg.dim * (cfg.dim if cfg.input_matrix else 1)
    if cfg.injection == "concat_linear":
        return 2 * cfg.dim**2
    if cfg.injection == "hyper":  # static weights, one map for the dynamic ones, its norm, scales
        n = cfg.streams
        return (n * n + 2 * n) + (n + 2) * cfg.dim + cfg.dim + 2
    return 0


def norm_gains(cfg: MythosConfig) -> int:
    """Gains of the RMSNorms outside of attention."""
    blocks = cfg.prelude_layers + cfg.core_layers + cfg.coda_layers
    each = 4 if cfg.block_norm in ("sandwich", "pre_post") else 2
    around = cfg.last_norm + cfg.prelude_norm + (cfg.coda_input == "norm")
    around += cfg.loop_norm in ("pre", "sandwich")
    if cfg.loop_norm in ("post", "sandwich"):  # of the whole state
        around += cfg.streams if cfg.injection == "hyper" else 1
    return (blocks * each + around) * cfg.dim


def attention_vectors(cfg: MythosConfig) -> int:
    """Norm gains and biases inside one attention layer."""
    if cfg.attn_type == "mla":
        return cfg.q_lora_rank + cfg.kv_lora_rank
    heads = cfg.n_heads + 2 * cfg.n_kv_heads
    return cfg.head_dim * (heads * cfg.attention_bias + 2 * cfg.qk_norm)


def entry_weights(cfg: MythosConfig) -> int:
    """Weights of the map between loop and coda."""
    return cfg.dim**2 if cfg.coda_input == "linear" else 0


def attention_weights(cfg: MythosConfig) -> int:
    """Linear weights of one attention layer, norms apart."""
    if cfg.attn_type == "gqa":
        return 2 * cfg.dim * cfg.head_dim * (cfg.n_heads + cfg.n_kv_heads)
    query = cfg.q_lora_rank * (
        cfg.dim + cfg.n_heads * (cfg.qk_rope_head_dim + cfg.qk_nope_head_dim)
    )
    down = cfg.dim * (cfg.kv_lora_rank + cfg.qk_rope_head_dim)
    up = cfg.kv_lora_rank * cfg.n_heads * (cfg.qk_nope_head_dim + cfg.v_head_dim)
    return query + down + up + cfg.n_heads * cfg.v_head_dim * cfg.dim


def flops_per_token(
    cfg: MythosConfig, n_loops: int | None = None, context: int | None = None
) -> FlopBudget:
    r"""Forward FLOPs of one token, averaged over a causal sequence of `context` tokens.

    With W the linear weights that the token meets, K = (context + 1) / 2 the keys that an
    average position sees (causal: 1, 2, ..., context), and H heads of q/k width a and value
    width v,

        attention = 2 W_attn + 2 H (a + v) K
        dense block = attention + 2 * 3 dim dense_width
        loop = core_layers (attention + 2 dim n_experts + 2 * 3 dim expert_dim n_experts_per_tok
               + 2 * 3 dim shared_width n_shared_experts) + injection + 4 dim lora_rank + 2 dim
        total = prelude_layers * dense + n_loops * loop + coda_layers * dense + 2 vocab_size dim
                (kv "first": less (n_loops - 1) 2 dim times the numbers cached per position)

    Latent attention is counted in its expanded form; the absorbed one serves where it is cheaper
    (decoding). A dense core has its feed-forward in place of experts; an injection counts where it
    multiplies by a matrix; a correction of a map of the core is two products more. The loop's last
    term is halting, absent with readout "last". Softmax, norms, rotations and other elementwise
    work are left out. What training adds is in `training_flops_per_token`.

    Args:
        cfg: The network.
        n_loops: Loops run; None is the config's max_loop_iters.
        context: Sequence length; None is the config's max_seq_len.

    Raises:
        InputError: If either number is below 1.
    """
    loops = _at_least_one("n_loops", cfg.max_loop_iters if n_loops is None else n_loops)
    length = _at_least_one("context", cfg.max_seq_len if context is None else context)
    if cfg.attn_type == "mla":
        per_key = cfg.n_heads * (cfg.qk_rope_head_dim + cfg.qk_nope_head_dim + cfg.v_head_dim)
    else:
        per_key = cfg.n_heads * 2 * cfg.head_dim
    attention = attention_weights(cfg) + per_key * (length + 1) / 2
    dense = attention + 3 * cfg.dim * cfg.dense_width
    experts = cfg.expert_dim * cfg.n_experts_per_tok + cfg.shared_width * cfg.n_shared_experts
    ffn = cfg.dim * (cfg.n_experts + 3 * experts)
    layer = dense if cfg.core_ffn == "dense" else attention + ffn
    loop = cfg.core_layers * layer + _around_core(cfg)
    saved = 0
    if cfg.kv == "first":  # the later loops form no keys and values of their own
        width = cfg.kv_lora_rank + cfg.qk_rope_head_dim
        width = width if cfg.attn_type == "mla" else 2 * cfg.n_kv_heads * cfg.head_dim
        saved = cfg.core_layers * (loops - 1) * cfg.dim * width
    return FlopBudget(
        prelude=2 * cfg.prelude_layers * dense,
        loops=2 * (loops * loop - saved),
        coda=2 * (cfg.coda_layers * dense + entry_weights(cfg)),
        head=2 * cfg.vocab_size * cfg.dim,
    )


def loop_flops(
    cfg: MythosConfig,
    *,
    positions: int,
    served: int,
    formed: int,
    pairs: int,
    raised: int,
    absorbed: bool = False,
) -> float:
    """Forward FLOPs of one loop of which not everything is computed; else as `flops_per_token`.

    Args:
        cfg: The network.
        positions: Those that pass attention and the dense parts.
        served: Those that pass the feed-forward.
        formed: Those whose keys and values are formed.
        pairs: Queries times the keys that each sees.
        raised: Keys that latent attention raises to keys and values per head.
        absorbed: It raises so many queries, and what they found, instead.
    """
    up, per_pair = 0, cfg.n_heads * 2 * cfg.head_dim
    width = 2 * cfg.n_kv_heads * cfg.head_dim
    if cfg.attn_type == "mla":
        r, rope, v = cfg.kv_lora_rank, cfg.qk_rope_head_dim, cfg.v_head_dim
        up, width = r * cfg.n_heads * (cfg.qk_nope_head_dim + v), r + rope
        per_pair = cfg.n_heads * ((2 * r + rope) if absorbed else rope + cfg.qk_nope_head_dim + v)
    asked = attention_weights(cfg) - up - cfg.dim * width
    experts = cfg.expert_dim * cfg.n_experts_per_tok + cfg.shared_width * cfg.n_shared_experts
    moe = cfg.dim * (cfg.n_experts + 3 * experts)
    ffn = 3 * cfg.dim * cfg.dense_width if cfg.core_ffn == "dense" else moe
    layer = positions * asked + formed * cfg.dim * width + raised * up + pairs * per_pair
    layer += served * ffn
    return 2.0 * (cfg.core_layers * layer + positions * _around_core(cfg))


def _around_core(cfg: MythosConfig) -> int:
    """Multiply-adds of one token and loop outside of the core: injection, adapter, halting."""
    adapter = 2 * cfg.dim * cfg.lora_rank if cfg.loop_lora else 0
    adapter += cfg.core_layers * correction_weights(cfg)
    return _injection_products(cfg) + adapter + (cfg.dim if cfg.readout != "last" else 0)


def _injection_products(cfg: MythosConfig) -> int:
    """Multiply-adds of one token and loop in the injection's matrix products."""
    if cfg.input_matrix:
        return cfg.dim**2
    if cfg.injection == "concat_linear":
        return 2 * cfg.dim**2
    if cfg.injection == "hyper":  # reading and writing each form the connections
        return 2 * cfg.streams * (cfg.streams + 2) * cfg.dim
    return 0


def training_flops_per_token(
    cfg: MythosConfig,
    n_loops: int | None = None,
    context: int | None = None,
    backprop_loops: int | None = None,
) -> float:
    """FLOPs of one token in a training step: a forward pass, and twice its differentiated part.

    Each matrix product of the forward pass has two of its size on the way back, one for either
    factor's gradient. Truncation leaves out the loops before the last `backprop_loops`; prelude,
    coda and head are differentiated whole. These are the FLOPs that the model needs: loops that
    are computed again on the way back (checkpointing) count once.

    Args:
        cfg: The network.
        n_loops: Loops run; None is the config's max_loop_iters.
        context: Sequence length; None is the config's max_seq_len.
        backprop_loops: Loops that are differentiated, the last ones; None is all.

    Raises:
        InputError: If a number is below 1.
    """
    loops = cfg.max_loop_iters if n_loops is None else n_loops
    work = flops_per_token(cfg, loops, context)
    left_out = 0.0
    if backprop_loops is not None:
        cut = loops - _at_least_one("backprop_loops", backprop_loops)
        left_out = flops_per_token(cfg, cut, context).loops if cut > 0 else 0.0
    return 3.0 * work.total - 2.0 * left_out


def cache_bytes_per_token(
    cfg: MythosConfig, n_loops: int | None = None, bytes_per_number: int = 2
) -> int:
    """Key-value cache of one position: a slot per dense block, and the loop's by cfg.kv.

    Args:
        cfg: The network.
        n_loops: Loops run; None is the config's max_loop_iters.
        bytes_per_number: 2 for bfloat16, 4 for float32.

    Raises:
        InputError: If n_loops or bytes_per_number is below 1.
    """
    loops = _at_least_one("n_loops", cfg.max_loop_iters if n_loops is None else n_loops)
    size = _at_least_one("bytes_per_number", bytes_per_number)
    slots = cfg.prelude_layers + cfg.loop_slots(loops) * cfg.core_layers + cfg.coda_layers
    return slots * sum(math.prod(shape) for shape in cfg.cache_widths.values()) * size


def with_attention(cfg: MythosConfig, attn_type: AttentionType) -> MythosConfig | None:
    """The same network with the other attention; None where its heads do not allow it."""
    try:
        return replace(cfg, attn_type=attn_type)
    except ConfigError:
        return None


def _at_least_one(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is {value!r}; it must be an int of at least 1")
    return value
