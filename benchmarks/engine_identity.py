"""Identity: what the engine says in a crowd is what `model.generate` says of each request alone."""

import argparse
import random
from typing import Any

import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.engine.engine import Engine
from open_mythos.engine.request import Request
from open_mythos.engine.settings import EngineConfig
from open_mythos.generate.params import SamplingParams
from open_mythos.model.mythos import OpenMythos


TINY: dict[str, Any] = {
    "vocab_size": 37,
    "dim": 16,
    "n_heads": 4,
    "n_kv_heads": 2,
    "max_seq_len": 64,
    "max_loop_iters": 3,
    "prelude_layers": 1,
    "coda_layers": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 5,
    "n_experts": 5,
    "n_shared_experts": 1,
    "n_experts_per_tok": 2,
    "expert_dim": 6,
    "act_threshold": 0.6,
    "lora_rank": 3,
    "dense_hidden": 24,
}
CHOICES: dict[str, tuple[Any, ...]] = {
    "attn_type": ("gqa", "mla"),
    "halted": ("freeze", "freeze", "continue"),
    "kv": ("per_loop", "per_loop", "first"),
    "readout": ("act", "last", "act_last", "act_sum"),
    "core_layers": (1, 2),
    "core_ffn": ("moe", "dense"),
    "injection": ("lti", "lti_first", "add", "none", "concat_linear", "damped", "hyper"),
    "initial_state": ("input", "zeros", "noise", "learned"),
    "untied_attention": (False, False, True),
    "loop_index": (False, True),
    "loop_lora": (False, True),
    "loop_norm": ("none", "pre", "post", "sandwich"),
    "block_norm": ("pre", "post", "sandwich", "pre_post"),
    "loops_beyond": ("continue", "hold", "cycle"),
}
EXITS = (
    None, "latent:0.3", "acceleration:0.5", "kl:0.05", "entropy:3.0", "stability:1", "act:0.9",
    "gate:0.6", "fixed:2",
)  # fmt: skip


def shaken(seed: int) -> OpenMythos:
    luck = random.Random(seed)
    torch.manual_seed(seed)
    config = MythosConfig(**TINY, **{name: luck.choice(of) for name, of in CHOICES.items()})
    model = OpenMythos(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.double().eval()


def schedule(seed: int) -> dict[str, int]:
    """One schedule: requests, those whose tokens differ, blocks left, what was exercised."""
    luck, model = random.Random(-seed - 1), shaken(seed // 4)  # four schedules per model
    size = luck.choice([2, 4])
    sizes = EngineConfig(
        blocks=-(-30 // size) + luck.randint(0, 10),
        block_size=size,
        rows=luck.randint(1, 6),
        chunk=luck.choice([4, 8, 16]),
        n_loops=5,
        share_prefixes=luck.random() < 0.8,
        buckets=luck.choice([(), (), (4, 8, 16, 32)]),
        stride=luck.choice([1, 1, 2, 3]),
        resident=luck.choice([0, 1, 2, 3]),
        prompts_at_once=luck.choice([None, None, True, False]),
    )
    engine, start = Engine(model, settings=sizes), [luck.randrange(37) for _ in range(12)]
    depths = [(luck.randint(1, 5), luck.choice(EXITS)) for _ in range(2)]  # few, to be shared
    arrivals = []
    for _ in range(luck.randint(1, 10)):
        prompt = start[: luck.choice([0, 8, 12, 12])] + luck.choices(
            range(37), k=luck.randint(1, 6)
        )
        sampling = SamplingParams(temperature=0.0, max_tokens=luck.randint(1, 12))
        request = Request(prompt, sampling, *luck.choice(depths))
        arrivals.append((luck.randint(0, 20), request))
    arrivals.sort(key=lambda item: item[0])
    said: dict[int, list[int]] = {}
    asked: dict[int, Request] = {}
    for step in range(10**5):
        while arrivals and arrivals[0][0] <= step:
            request = arrivals.pop(0)[1]
            asked[engine.add(request)] = request
        for event in engine.step():
            said.setdefault(event.request, []).append(-1 if event.token is None else event.token)
        if not arrivals and not engine.busy:
            break
    different = 0
    for number, request in asked.items():
        ids, most = torch.tensor([request.prompt]), request.sampling.max_tokens
        alone = model.generate(ids, most, request.n_loops, 0.0, exit=request.exit)
        different += alone[0, ids.shape[1] :].tolist() != said[number]
    stats = engine.stats
    spared = sum(len(tokens) for tokens in said.values()) * 5 - stats.totals.loops
    return {
        "requests": len(asked),
        "different": different,
        "blocks_left": stats.used,
        "preemptions": stats.preemptions,
        "positions_reused": stats.reused,
        "loops_spared": spared,
    }


def identity(args: argparse.Namespace) -> dict[str, Any]:
    total: dict[str, int] = {}
    for seed in range(args.seed, args.seed + args.schedules):
        for name, value in schedule(seed).items():
            total[name] = total.get(name, 0) + value
        if (seed + 1) % 50 == 0:
            print(f"identity: {seed + 1 - args.seed} schedules, {total}", flush=True)
    return {"schedules": args.schedules, **total}
