"""Train a small MoDA network on the bundled plays, and see what looking down the layers is worth.

    python examples/moda.py                 # about a minute on one core
    python examples/moda.py --steps 1000    # longer, better text

Prints the loss as it falls; how much of each layer's softmax goes to what the layers below wrote;
the held-out loss with that view and with it closed; and a few lines of text.
"""

import argparse
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from open_mythos.data.corpus import encode_corpus, plays_text, train_validation_split
from open_mythos.data.tokenizer import load_tokenizer
from open_mythos.data.windows import TokenWindows
from open_mythos.moda import MoDAConfig, MoDAModel
from open_mythos.moda.block import Depths


PEAK = 5e-3  # learning rate


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=16, help="sequences in a step")
    args = parser.parse_args(argv)
    torch.manual_seed(0)

    tokenizer = load_tokenizer("plays")
    train_text, held_out_text = train_validation_split(plays_text())
    read, held_out = (
        TokenWindows(encode_corpus(tokenizer, text), 64, args.rows, 0, tokenizer.vocab_size)
        for text in (train_text, held_out_text)
    )
    model = MoDAModel(
        MoDAConfig(
            vocab_size=tokenizer.vocab_size,
            d_model=args.dim,
            n_layers=args.layers,
            n_heads_q=4,
            n_heads_kv=2,
            head_dim=args.dim // 4,
            max_seq_len=256,
            n_shared_experts=1,
            n_routed_experts=8,
            n_activated_experts=2,
            expert_hidden_dim=args.dim,
            moe_n_groups=4,
            moe_topk_groups=2,  # a token's two experts come from two of four pairs
            moe_balance="bias",
            moe_score_func="sigmoid",
            init_std=args.dim
            ** -0.5,  # 0.02 is for wide ones: at 64, post-norm layers then start mute
        )
    )
    print(f"{model.num_parameters():,} parameters, {args.layers} layers; chance: "
          f"{math.log(tokenizer.vocab_size):.2f} nats per token")  # fmt: skip

    loads = train(model, read, args.steps)
    busiest = (loads.amax(1) / loads.double().mean(1)).tolist()
    print("busiest expert over the mean, by layer: " + " ".join(f"{x:.2f}" for x in busiest))

    model.eval()
    share = shares(model, held_out.batch(0).ids)
    print("softmax that goes down, by layer:       " + " ".join(f"{x:.2f}" for x in share))
    with_depth = held_out_loss(model, held_out)
    hooks = [block.attn.register_forward_pre_hook(closed) for block in model.blocks]
    without = held_out_loss(model, held_out)
    for hook in hooks:
        hook.remove()
    print(f"held-out loss {with_depth:.3f}; with the view down closed {without:.3f}")

    prompt = torch.tensor([tokenizer.encode("HAMLET:\n")])
    text = tokenizer.decode(model.generate(prompt, 60, temperature=0.8, top_k=40)[0].tolist())
    print(text)
    return {"loss": with_depth, "without": without, "share": share, "text": text}


def train(model: MoDAModel, windows: TokenWindows, steps: int) -> torch.Tensor:
    """All of training: AdamW, warm-up and cosine, a step of the bias. Returns the last loads."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.95))
    warm = max(steps // 10, 1)
    began, loads = time.perf_counter(), torch.zeros(1, 1)
    for step in range(steps):
        part = min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = PEAK * part
        batch = windows.batch(step)
        loss = model.loss(batch.ids, batch.targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loads = model.update_router_bias(0.01)
        if step % max(steps // 8, 1) == 0 or step == steps - 1:
            seconds = time.perf_counter() - began
            print(f"step {step:4d}  loss {loss.item():.3f}  {seconds:5.1f} s", flush=True)
    return loads


@torch.no_grad()
def held_out_loss(model: MoDAModel, windows: TokenWindows, batches: int = 12) -> float:
    """Mean loss of some held-out batches."""
    losses = []
    for number in range(batches):
        batch = windows.batch(number)
        losses.append(model.loss(batch.ids, batch.targets).item())
    return sum(losses) / len(losses)


@torch.no_grad()
def shares(model: MoDAModel, ids: torch.Tensor) -> list[float]:
    """Mean part of each layer's softmax that goes to what the layers below wrote."""
    found: list[float] = []
    hooks = [
        block.attn.register_forward_pre_hook(
            lambda attn, call: found.append(attn.depth_share(*call[:3]).mean().item())
        )
        for block in model.blocks
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    return found


def closed(_: nn.Module, call: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of an attention that sees nothing below."""
    x, rotary, _, *rest = call
    return (x, rotary, Depths(), *rest)


if __name__ == "__main__":
    main()
