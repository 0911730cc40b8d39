"""What a valid config is likely to regret: warnings, each with its reason and the way out."""

from open_mythos.config.budget import cache_bytes_per_token, with_attention
from open_mythos.config.mythos import WIDTH_MULTIPLE, MythosConfig


# 0.37, the seed design's start of A, fell from 0.99 to 0.79 accuracy at ten times the trained depth
# on pointer chasing; 0.01 kept 0.99, and 0.01 to 0.2 behaved alike.
LONGEST_DEEP_DECAY = 0.2


def advice(cfg: MythosConfig, n_loops: int | None = None, context: int | None = None) -> list[str]:
    """Warnings for a run of this network at a depth and length; none means nothing was found.

    Args:
        cfg: The network.
        n_loops: Loops intended; None is the config's max_loop_iters.
        context: Length intended; None is the config's max_seq_len.
    """
    loops = cfg.max_loop_iters if n_loops is None else n_loops
    return [
        *_of_widths(cfg),
        *_of_depth(cfg, loops),
        *_of_experts(cfg),
        *_of_cache(cfg, loops),
        *_of_length(cfg, cfg.max_seq_len if context is None else context),
    ]


def _of_widths(cfg: MythosConfig) -> list[str]:
    widths = {"dim": cfg.dim, "dense_hidden": cfg.dense_width, "expert_dim": cfg.expert_dim}
    if cfg.attn_type == "mla":
        widths |= {"kv_lora_rank": cfg.kv_lora_rank, "q_lora_rank": cfg.q_lora_rank}
    odd = [f"{name} ({width})" for name, width in widths.items() if width % WIDTH_MULTIPLE]
    if not odd:
        return []
    verb = "is no multiple" if len(odd) == 1 else "are no multiples"
    return [
        f"{', '.join(odd)} {verb} of {WIDTH_MULTIPLE}: in bfloat16 such a matrix product ran "
        "4 to 6 times slower on a Hopper GPU; round up"
    ]


def _of_depth(cfg: MythosConfig, loops: int) -> list[str]:
    found = []
    if cfg.readout in ("act", "act_sum"):
        found.append(
            f"readout {cfg.readout!r} weighs early loops into the output of early halters; "
            "it carried less far beyond the training depth (docs/log.md); where depth should pay, "
            "readout='last'"
        )
    if cfg.injection == "lti" and cfg.lti_decay > LONGEST_DEEP_DECAY:
        found.append(
            f"lti_decay starts at {cfg.lti_decay:.2g}: a state carried that long lost accuracy "
            "beyond the training depth in our probe; a start near 0.01 did not"
        )
    if cfg.loop_lora and loops > cfg.max_loop_iters:
        found.append(
            f"{loops} loops exceed max_loop_iters ({cfg.max_loop_iters}): the later ones share "
            "the last loop's adapter scale"
        )
    return found


def _of_experts(cfg: MythosConfig) -> list[str]:
    if cfg.n_shared_experts < 2:
        return []
    return [
        f"{cfg.n_shared_experts} shared experts of width {cfg.shared_width} "
        f"(expert_dim * n_experts_per_tok) do {cfg.n_shared_experts} times the work of the "
        f"{cfg.n_experts_per_tok} routed ones: most expert FLOPs are not routed"
    ]


def _of_cache(cfg: MythosConfig, loops: int) -> list[str]:
    grouped = with_attention(cfg, "gqa")
    if cfg.attn_type != "mla" or grouped is None:
        return []
    latent, plain = cache_bytes_per_token(cfg, loops), cache_bytes_per_token(grouped, loops)
    if latent < plain:
        return []
    return [
        f"the latent cache ({latent:,} bytes per token) is no smaller than grouped-query "
        f"attention's ({plain:,}): lower kv_lora_rank, or use attn_type='gqa'"
    ]


def _of_length(cfg: MythosConfig, context: int) -> list[str]:
    if context <= cfg.max_seq_len:
        return []
    return [f"context {context:,} exceeds max_seq_len ({cfg.max_seq_len:,}): it will be refused"]
