"""The shortest way in: build a small network, run it at several depths, write with it.

python example.py            # seconds; examples/ has six longer ones
"""

import torch

from open_mythos import MythosConfig, OpenMythos


def main() -> torch.Tensor:
    sizes = {
        "vocab_size": 1000,
        "dim": 256,
        "n_heads": 8,
        "n_kv_heads": 2,
        "max_seq_len": 128,
        "max_loop_iters": 4,
        "prelude_layers": 1,
        "coda_layers": 1,
        "n_experts": 8,
        "n_shared_experts": 1,
        "n_experts_per_tok": 2,
        "expert_dim": 64,
        "lora_rank": 8,
    }
    latent = {
        "attn_type": "mla",
        "kv_lora_rank": 32,
        "q_lora_rank": 64,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
    }
    ids = torch.randint(0, 1000, (2, 16))
    for extra in ({"attn_type": "gqa"}, latent):
        model = OpenMythos(MythosConfig(**sizes, **extra))  # type: ignore[arg-type]
        count = sum(p.numel() for p in model.parameters())
        print(f"{extra['attn_type']}: {count:,} parameters")
        for n_loops in (1, 4, 8):  # more loops: deeper computation, the same parameters
            print(f"  {n_loops} loops: logits {tuple(model(ids, n_loops=n_loops).shape)}")
        tokens = model.generate(ids, max_new_tokens=8, n_loops=8)
        print(f"  generated {tuple(tokens.shape)}")
        radius = model.recurrent.injection.spectral_radius()
        print(f"  spectral radius of A: {float(radius):.4f}, below 1 by construction")
    return tokens


if __name__ == "__main__":
    main()
