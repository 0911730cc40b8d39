"""What speed costs in accuracy: logits against float64, fast paths against plain ones."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from torch import Tensor

from open_mythos.bench.contender import random_ids
from open_mythos.bench.ours import (
    GREEDY,
    Engine,
    Ours,
    Trainer,
    built,
    decoder,
    eager_decoder,
    random_batches,
    use_experts,
)
from open_mythos.bench.record import Figure
from open_mythos.bench.sizes import size_cpu, size_tiny
from open_mythos.bench.suite import Case, Found, Setting
from open_mythos.bench.suites.layers import DEFINITIONS
from open_mythos.model.mythos import OpenMythos
from open_mythos.ops.backend import ExpertsBackend


LOOPS = 16
ROWS = 2
POSITIONS = 256
TOKENS = 32
STEPS = 50


def accuracy(setting: Setting) -> list[Case]:
    """Logits by experts' implementation, tokens of the two decoders, losses of two trainers."""
    cases = []
    for attn in setting.attns:
        cases += [
            Case("logits", Ours.name, _logits(setting, attn), attn, 20),
            Case("decode", Ours.name, _tokens(setting, attn), attn, 10),
            Case("losses", Ours.name, _losses(setting, attn), attn, 40),
        ]
    return cases


def _logits(setting: Setting, attn: str) -> Callable[[], Iterator[Found]]:
    """Two references: the same weights in float64, and those that bf16 can hold."""

    def run() -> Iterator[Found]:
        cfg = setting.size.config(attn, max_loop_iters=LOOPS)
        length = min(POSITIONS, cfg.max_seq_len)
        ids = random_ids(cfg.vocab_size, ROWS, length, device=setting.device)
        model = built(cfg, setting.device).eval()
        narrow = copy.deepcopy(model).to(torch.bfloat16)
        exact = _forward(copy.deepcopy(model), ids, torch.float64, "loop")
        held = _forward(copy.deepcopy(narrow), ids, torch.float64, "loop")
        for dtype in (torch.float32, torch.bfloat16):
            weights = model if dtype == torch.float32 else narrow
            for backend in get_args(ExpertsBackend):
                if backend in DEFINITIONS:
                    continue
                figures, note = {}, ""
                try:
                    out = _forward(copy.deepcopy(weights), ids, dtype, backend)
                    figures = errors(out, exact, held if dtype == torch.bfloat16 else exact)
                except (RuntimeError, ValueError) as error:  # a backend that this dtype has not
                    note = str(error).partition("\n")[0]
                yield Found(
                    case=f"logits {str(dtype).removeprefix('torch.')}",
                    who=f"experts {backend}",
                    figures=figures,
                    shape={"loops": LOOPS, "rows": ROWS, "positions": length},
                    note=note,
                )

    return run


def _forward(model: OpenMythos, ids: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
    chosen: Any = backend
    with torch.no_grad():
        out: Tensor = use_experts(model.to(dtype), chosen)(ids, LOOPS)
    return out.double()


def errors(out: Tensor, exact: Tensor, held: Tensor) -> dict[str, Figure]:
    """Distance of logits (B, S, V) from the reference, relative to its norm.

    Args:
        out: The logits under test.
        exact: Reference with the full weights.
        held: Reference with the weights as rounded for the test: the rest is arithmetic.
    """
    agreed = (out.argmax(-1) == exact.argmax(-1)).double().mean().item()
    return {
        "relative_error": Figure(relative(out, exact), "1"),
        "arithmetic_error": Figure(relative(out, held), "1"),
        "same_choice": Figure(agreed, "1"),
    }


def relative(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|."""
    distance: float = ((found - wanted).norm() / wanted.norm()).item()
    return distance


def _tokens(setting: Setting, attn: str) -> Callable[[], Iterator[Found]]:
    """Greedy tokens of the captured graph, of the same step run eagerly, and of a growing cache."""

    def run() -> Iterator[Found]:
        cfg = setting.size.config(attn, max_loop_iters=setting.size.loops)
        ids = random_ids(cfg.vocab_size, ROWS, setting.size.context, device=setting.device)
        weights = built(cfg, setting.device).eval()
        for dtype in dict.fromkeys((torch.float32, setting.dtype)):
            model = copy.deepcopy(weights).to(dtype)
            graph, eager, growing = (
                torch.stack([step().clone() for _ in range(TOKENS)])
                for step in (
                    decoder(model, ids, cfg.max_loop_iters, GREEDY),
                    decoder(model, ids, cfg.max_loop_iters, GREEDY, graph=False),
                    eager_decoder(model, ids, cfg.max_loop_iters, GREEDY),
                )
            )
            for other, name in ((eager, "eager decode"), (growing, "a growing cache")):
                yield Found(
                    case=f"graph decode against {name}",
                    who=str(dtype).removeprefix("torch."),
                    figures={"same_tokens": Figure(agreement(graph, other), "1")},
                    shape={"rows": ROWS, "tokens": TOKENS, "context": ids.shape[1]},
                    note="after a first difference everything differs",
                )

    return run


def agreement(one: Tensor, other: Tensor) -> float:
    """Share of equal elements."""
    share: float = (one == other).double().mean().item()
    return share


def _losses(setting: Setting, attn: str) -> Callable[[], Iterator[Found]]:
    """Float32 losses from one seed, step by step: compiled and checkpointed against plain."""

    def run() -> Iterator[Found]:
        size = size_tiny() if setting.size.name == "tiny" else size_cpu()
        cfg = size.config(attn, max_loop_iters=size.loops)
        fast = Engine(precision="fp32", compile=setting.compile, checkpoint=True)
        torch.manual_seed(0)  # for the random batches; weights are seeded by the recipe
        source = random_batches(cfg, size.batch, size.seq_len, (size.loops,), setting.device)
        runs = []
        for engine in (Engine(precision="fp32"), fast):
            trainer = Trainer(cfg, source, setting.device, engine)
            runs.append([trainer.loss() for _ in range(STEPS)])
        apart = max(abs(a - b) for a, b in zip(*runs, strict=True))
        yield Found(
            case="fp32 losses, fast against plain",
            who=Ours.name,
            figures={"apart": Figure(apart, "nats"), "last_loss": Figure(runs[0][-1], "nats")},
            shape={"steps": STEPS, "size": size.name},
            note="fast is compiled and checkpointed" if fast.compile else "fast is checkpointed",
        )

    return run
