"""MoDAConfig: the fields of one mixture-of-depths network, checked, without torch."""

from dataclasses import dataclass
from typing import Literal

from open_mythos.config.fields import CheckedFields
from open_mythos.errors import ConfigError


ScoreFunction = Literal["softmax", "sigmoid"]
Balance = Literal["loss", "bias"]
DepthSource = Literal["ffn", "attention", "both"]
BlockOrder = Literal["post", "pre"]


@dataclass
class MoDAConfig(CheckedFields):
    """Every choice that fixes a MoDA network; assignable, and checked again when one is built.

    The first block of fields and its defaults are those of the public open-mythos 0.5.0; the second
    are this library's own.

    Attributes:
        vocab_size: Rows of the (tied) embedding.
        d_model: Width of the residual stream.
        n_layers: Blocks, one after the other.
        n_heads_q: Query heads.
        n_heads_kv: Key/value heads; query heads share them in equal groups.
        head_dim: Width of one head, rotated whole; even.
        max_seq_len: Positions a sequence may have, prompt and generation together.
        rope_base: Base of the rotary frequencies.
        attn_dropout: Attention weights dropped while training, in [0, 1). What a position reads
            from its earlier layers is dropped as one.
        norm_eps: Added to the mean square in every RMSNorm.
        n_shared_experts: Always-on experts.
        n_routed_experts: Experts that a router picks from.
        n_activated_experts: Routed experts that each token visits.
        expert_hidden_dim: Hidden width of one expert, shared or routed.
        moe_balance_alpha: Weight of the balance loss; 0 is none.
        moe_score_func: How logits become scores: "softmax", the weights being the scores of the
            picked (DeepSeek-V2), or "sigmoid", those divided by their sum (DeepSeek-V3).
        moe_n_groups: Equal groups that the routed experts are in.
        moe_topk_groups: Groups, the best ones, that a token may pick experts from.
        moe_route_scale: Factor on the routed experts' weights.
        moe_balance: "loss" (a term of the training loss), or "bias": no loss, but a bias per expert
            that picks and never weighs, stepped by `MoDAModel.update_router_bias`.
        depth_from: What a layer writes for the layers above at each position. "ffn": keys and
            values of the block's output, by two maps of their own; "attention": those its attention
            has formed anyway; "both".
        block_norm: "post": norm(x + f(x)), with which the paper found MoDA to do better; "pre":
            x + f(norm(x)).
        init_std: Standard deviation of every weight matrix at the start.
    """

    vocab_size: int = 32000
    d_model: int = 2048
    n_layers: int = 24
    n_heads_q: int = 16
    n_heads_kv: int = 8
    head_dim: int = 128
    max_seq_len: int = 4096
    rope_base: float = 10000.0
    attn_dropout: float = 0.0
    norm_eps: float = 1e-6
    n_shared_experts: int = 2
    n_routed_experts: int = 64
    n_activated_experts: int = 6
    expert_hidden_dim: int = 704
    moe_balance_alpha: float = 0.001
    moe_score_func: ScoreFunction = "softmax"
    moe_n_groups: int = 1
    moe_topk_groups: int = 1
    moe_route_scale: float = 1.0

    moe_balance: Balance = "loss"
    depth_from: DepthSource = "ffn"
    block_norm: BlockOrder = "post"
    init_std: float = 0.02

    def validate(self) -> None:
        """Refuse what cannot be built.

        Raises:
            ConfigError: Naming the field, its value and the way out.
        """
        self.check_kinds()
        self.check_least(("n_shared_experts",))
        self.check_signs(POSITIVE, NOT_NEGATIVE)
        if self.attn_dropout >= 1.0:
            raise ConfigError(f"attn_dropout is {self.attn_dropout}; it must lie in [0, 1)")
        if self.n_heads_q % self.n_heads_kv:
            raise ConfigError(
                f"n_heads_q ({self.n_heads_q}) is not a multiple of n_heads_kv "
                f"({self.n_heads_kv}); query heads share key heads in equal groups"
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"head_dim is {self.head_dim}; RoPE rotates pairs of channels, so it must be even"
            )
        self._check_experts()

    def _check_experts(self) -> None:
        routed, groups = self.n_routed_experts, self.moe_n_groups
        if routed % groups:
            raise ConfigError(
                f"n_routed_experts ({routed}) is not a multiple of moe_n_groups ({groups}); "
                "groups hold equally many experts"
            )
        if self.moe_topk_groups > groups:
            raise ConfigError(
                f"moe_topk_groups ({self.moe_topk_groups}) exceeds moe_n_groups ({groups})"
            )
        within = routed // groups * self.moe_topk_groups
        if self.n_activated_experts > within:
            raise ConfigError(
                f"n_activated_experts is {self.n_activated_experts}, but moe_topk_groups "
                f"({self.moe_topk_groups}) of moe_n_groups ({groups}) hold {within} of the "
                f"n_routed_experts ({routed}); activate fewer, or open more groups"
            )


POSITIVE = ("rope_base", "moe_route_scale")
NOT_NEGATIVE = ("attn_dropout", "norm_eps", "moe_balance_alpha", "init_std")
