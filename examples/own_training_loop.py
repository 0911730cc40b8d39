"""A training loop of your own: nothing of the trainer, only the model, PyTorch and three calls.

    python examples/own_training_loop.py            # about a minute on one core

What a loop of one's own must not forget: draw the number of loops anew each step, so that the model
does not grow attached to one; call update_router_bias after each step, or experts fall idle; read
the loss off the features, in chunks, where the vocabulary is large. Prints the held-out loss by
number of loops, saves the model, and loads it back.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from open_mythos import MythosConfig, OpenMythos
from open_mythos.data.corpus import encode_corpus, plays_text, train_validation_split
from open_mythos.data.tokenizer import load_tokenizer
from open_mythos.data.windows import TokenWindows
from open_mythos.ops.head_loss import head_loss
from open_mythos.train.depth import DepthConfig, sample_depth


def main(argv: Sequence[str] | None = None) -> dict[int, float]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--out", type=Path, default=Path("runs/example-own-loop"))
    args = parser.parse_args(argv)
    torch.manual_seed(0)

    tokenizer = load_tokenizer("plays")
    read, held_out = (
        TokenWindows(encode_corpus(tokenizer, text), 64, 16, 0, tokenizer.vocab_size)
        for text in train_validation_split(plays_text())
    )
    model = OpenMythos(network(tokenizer.vocab_size, args.dim))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95))
    depths = DepthConfig(kind="poisson", mean=3, min=1, max=6)
    warm = max(args.steps // 10, 1)
    for step in range(args.steps):
        share = min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / args.steps))
        optimizer.param_groups[0]["lr"] = 4e-3 * share
        batch = read.batch(step)
        n_loops = sample_depth(depths, seed=0, step=step)
        # logits_to_keep=0: the record's features are enough, no logits of all positions are formed
        out = model(batch.ids, n_loops, logits_to_keep=0, return_output=True)
        loss = head_loss(out.features.flatten(0, 1), model.head.weight, batch.targets.flatten())
        optimizer.zero_grad()
        loss.total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.update_router_bias(0.01)
        if step % max(args.steps // 8, 1) == 0:
            print(f"step {step:4d}  {n_loops} loops  loss {loss.cross_entropy:.3f}", flush=True)

    found = {loops: held_out_loss(model.eval(), held_out, loops) for loops in (1, 2, 3, 6, 12)}
    for loops, value in found.items():
        print(f"held-out loss at {loops:2d} loops: {value:.3f}")
    model.save_pretrained(args.out)
    twin = OpenMythos.from_pretrained(args.out)
    prompt = torch.tensor([tokenizer.encode("JULIET:\n")])
    same = torch.equal(twin(prompt, 3), model(prompt, 3))
    print(f"saved to {args.out}; loaded back, it gives the same logits: {same}")
    print(tokenizer.decode(twin.generate(prompt, 40, n_loops=3, temperature=0.8)[0].tolist()))
    return found


def network(vocab_size: int, dim: int) -> MythosConfig:
    """A small network with the loop that extrapolates: docs/depth-suite.md, design `mythos`."""
    return MythosConfig(
        vocab_size=vocab_size,
        dim=dim,
        n_heads=4,
        n_kv_heads=2,
        max_seq_len=256,
        max_loop_iters=6,
        prelude_layers=1,
        coda_layers=1,
        attn_type="gqa",
        n_experts=4,
        n_shared_experts=1,
        n_experts_per_tok=2,
        expert_dim=dim,
        readout="last",
        lti_decay=0.01,
        loop_index=False,
        loop_lora=False,
        init_std=dim**-0.5,
    )


@torch.no_grad()
def held_out_loss(model: OpenMythos, windows: TokenWindows, n_loops: int) -> float:
    """Mean loss of some held-out batches at one number of loops."""
    losses = []
    for number in range(6):
        batch = windows.batch(number)
        logits = model(batch.ids, n_loops)
        losses.append(nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten()))
    return torch.stack(losses).mean().item()


if __name__ == "__main__":
    main()
