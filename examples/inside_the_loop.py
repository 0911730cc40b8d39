"""Look into a pass: how the state moves, which experts serve, when positions halt, what is cached.

    python examples/inside_the_loop.py                       # the seed design, untrained: seconds
    python examples/inside_the_loop.py --model runs/mine     # a run, or a folder with a model

No hooks are needed: return_output=True gives the record of a pass. Two tables: the loop, turn by
turn; and what the cache takes under each way of sharing keys between loops.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from open_mythos import MythosConfig, OpenMythos
from open_mythos.cli.opening import open_checkpoint
from open_mythos.nn.moe.balance import load_entropy


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--loops", type=int, default=12)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    model = untrained() if args.model is None else open_checkpoint(args.model, "cpu").model
    model.eval()
    cfg = model.cfg
    ids = torch.randint(cfg.vocab_size, (4, min(32, cfg.max_seq_len)))
    with torch.no_grad():
        record = model(ids, args.loops, return_output=True)

    if hasattr(model.recurrent.injection, "spectral_radius"):
        print(
            f"rho(A) of the linear part: {float(model.recurrent.injection.spectral_radius()):.4f}"
        )
    print(f"{record.n_loops} of {args.loops} loops ran")
    print("loop  size of state  change of it  evenness of experts  halting, mean")
    for loop in range(record.n_loops):
        change = "-" if record.state_change is None else f"{record.state_change[loop]:.3f}"
        even = (
            f"{load_entropy(record.router_load[loop]):.3f}" if record.router_load.numel() else "-"
        )
        halting = "-" if record.halting is None else f"{record.halting[loop].mean():.3f}"
        print(f"{loop:4d}  {record.state_rms[loop]:13.3f}  {change:>12}  {even:>19}  {halting:>13}")
    if record.halting_weights is not None:
        total = record.halting_weights.sum(0)
        print(f"weights of a position over all loops sum to {total.min():.6f} .. {total.max():.6f}")
    sizes = caches(cfg, ids, min(args.loops, 8))
    for kind, size in sizes.items():
        print(f"cache of {ids.numel()} positions at {min(args.loops, 8)} loops, {kind}: {size:,} B")
    return {"loops": record.n_loops, "caches": sizes}


def untrained() -> OpenMythos:
    """The seed design, small: attention to latents, experts, adaptive halting."""
    return OpenMythos(
        MythosConfig(
            vocab_size=256,
            dim=64,
            n_heads=4,
            n_kv_heads=2,
            max_seq_len=128,
            max_loop_iters=8,
            kv_lora_rank=32,
            q_lora_rank=48,
            qk_rope_head_dim=8,
            qk_nope_head_dim=16,
            v_head_dim=16,
            n_experts=8,
            n_experts_per_tok=2,
            expert_dim=32,
        )
    )


@torch.no_grad()
def caches(cfg: MythosConfig, ids: torch.Tensor, n_loops: int) -> dict[str, int]:
    """Bytes of the cache after these ids, for both attentions and both ways of sharing keys."""
    sizes = {}
    for attention in ("mla", "gqa"):
        for kv in ("per_loop", "first"):
            twin = OpenMythos(replace(cfg, attn_type=attention, kv=kv)).eval()
            kept: dict[str, dict[str, torch.Tensor]] = {}
            twin(ids, n_loops, kv_cache=kept)
            tensors = [t for entry in kept.values() for t in entry.values()]
            sizes[f"{attention}, kv={kv}"] = sum(t.numel() * t.element_size() for t in tensors)
    return sizes


if __name__ == "__main__":
    main()
