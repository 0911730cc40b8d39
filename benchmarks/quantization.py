"""What int8 and int4 weights cost a looped network: loss against loops, memory and speed.

    pip install "open-mythos[quant]"
    python benchmarks/quantization.py MODEL --out benchmarks/results/quantization.json
    python benchmarks/quantization.py MODEL --device cuda --out benchmarks/results/...

MODEL is a model folder with a held-out text (held-out.txt, or --text). All but the first of
float32, bfloat16, int8 and int4 compute in bfloat16. For each and each number of loops, on the same
windows: loss in nats per token, its difference from float32's, the divergence KL(float32 || it) of
the predictions, how often both name the same token, and the relative difference of the logits. If
a loop fed its own rounding back, these would grow with the number of loops. Prompt (128 tokens) and
decoding are timed on one thread, in turns, on a CPU by the time of the process; the least is given.
What --out has of losses already is not computed again.
"""

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from open_mythos.checkpoint.files import write_json
from open_mythos.cli.opening import open_checkpoint
from open_mythos.interop.quantisation import quantize
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.cache import KVCache
from open_mythos.train.environment import environment


KINDS = ("int8", "int4")


def windows(ids: list[int], width: int, count: int) -> Tensor:
    """(count, width + 1), spread evenly over the text."""
    step = max(1, (len(ids) - width - 1) // count)
    return torch.tensor([ids[i * step : i * step + width + 1] for i in range(count)])


@torch.inference_mode()
def compared(models: dict[str, OpenMythos], rows: Tensor, n_loops: int) -> dict[str, Any]:
    """By model, mean loss and how far its predictions are from those of the first."""
    first = next(iter(models))
    sums: dict[str, dict[str, float]] = {name: {} for name in models}
    for row in rows.split(2):
        told = {n: m(row[:, :-1], n_loops).float().flatten(0, 1) for n, m in models.items()}
        old, p = told[first], told[first].log_softmax(-1)
        for name, new in told.items():
            q = new.log_softmax(-1)
            found = {"loss": F.nll_loss(q, row[:, 1:].flatten(), reduction="sum")}
            if name != first:
                found["loss_added"] = found["loss"] - F.nll_loss(
                    p, row[:, 1:].flatten(), reduction="sum"
                )
                found["divergence"] = F.kl_div(q, p, log_target=True, reduction="sum")
                found["same_token"] = (old.argmax(-1) == new.argmax(-1)).sum()
                found["logits_off"] = ((new - old).norm(dim=-1) / old.norm(dim=-1)).sum()
            for what, value in found.items():
                sums[name][what] = sums[name].get(what, 0.0) + float(value)
    count = rows.shape[0] * (rows.shape[1] - 1)
    return {name: {k: v / count for k, v in row.items()} for name, row in sums.items()}


@torch.inference_mode()
def timed(models: dict[str, OpenMythos], n_loops: int, turns: int) -> dict[str, Any]:
    """Least milliseconds of a prompt of 128 tokens and of one more token, taking turns."""
    best: dict[str, dict[str, float]] = {name: {} for name in models}
    for _ in range(turns):
        for name, model in models.items():
            device = model.embed.weight.device
            ids = torch.arange(128, device=device).view(1, -1)
            cache = model.new_cache(1, 160)
            spent = {"prompt_ms": clock(model, ids, n_loops, cache)}
            tokens = [clock(model, ids[:, i : i + 1], n_loops, cache) for i in range(8)]
            spent["token_ms"] = min(tokens)
            for what, value in spent.items():
                best[name][what] = min(best[name].get(what, value), value)
    return {name: {k: round(v, 3) for k, v in row.items()} for name, row in best.items()}


def clock(model: OpenMythos, ids: Tensor, n_loops: int, cache: KVCache) -> float:
    """Milliseconds of one pass; on a CPU those of this process, whatever else the machine does."""
    now = time.perf_counter if ids.is_cuda else time.process_time
    if ids.is_cuda:
        torch.cuda.synchronize()
    begun = now()
    model(ids, n_loops, cache, logits_to_keep=1)
    if ids.is_cuda:
        torch.cuda.synchronize()
    return (now() - begun) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--loops", default="1,4,8,32")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    opened = open_checkpoint(asked.model, asked.device)
    text = asked.text or opened.held_out
    if text is None:
        parser.error(f"{asked.model} has no held-out.txt; give --text")
    ids = opened.tokenizer.encode(text.read_text(encoding="utf-8").replace("\f", "\n"))
    width = opened.model.cfg.max_seq_len
    wide = opened.model.float()
    device = wide.embed.weight.device
    rows = windows(ids, width, asked.windows).to(device)
    loops = [int(n) for n in asked.loops.split(",")]

    models, made = {"float32": wide, "bfloat16": copy.deepcopy(wide).bfloat16()}, {}
    for kind in KINDS:
        models[kind] = copy.deepcopy(models["bfloat16"])
        made[kind] = quantize(models[kind], kind)
        print(made[kind], flush=True)
    record: dict[str, Any] = {
        "environment": {**environment(device, 0), "command": None},
        "tokens": rows.shape[0] * width,
        "window": width,
        "quantised": {
            kind: {
                "share": q.share,
                "parameters": q.parameters,
                "left": q.left,
                "bytes_before": q.bytes_before,
                "bytes_after": q.bytes_after,
            }
            for kind, q in made.items()
        },
        "loss": {},
        "speed": {},
    }
    if asked.out.exists():
        record["loss"] = json.loads(asked.out.read_text())["loss"]
    for n in loops:
        if str(n) in record["loss"]:
            continue
        record["loss"][str(n)] = compared(models, rows, n)
        print(n, record["loss"][str(n)], flush=True)
        write_json(asked.out, record)
    for n in loops:
        record["speed"][str(n)] = timed(models, n, asked.turns)
        print(n, record["speed"][str(n)], flush=True)
        write_json(asked.out, record)


if __name__ == "__main__":
    main()
