"""What the demo measures on its trained models, as records that survive in JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from open_mythos.data.tasks import PointerChase
from open_mythos.data.tokenizer import Tokenizer
from open_mythos.data.windows import TokenWindows
from open_mythos.demo.plan import PROMPT, SAMPLE_LOOPS, SAMPLE_TOKENS, TEXT_LOOPS
from open_mythos.eval.accuracy import accuracy, task_batches
from open_mythos.eval.halting import LoopUse, loop_use
from open_mythos.eval.loop_curve import DepthMap, LoopCurve, depth_map, sweep
from open_mythos.eval.perplexity import score
from open_mythos.model.mythos import OpenMythos


TEXT_BATCHES = 10  # of 16 windows of 128: 20,480 targets
TASK_BATCHES = 2


@dataclass(frozen=True)
class TextResult:
    """The text model at every depth.

    Attributes:
        curve: Validation score against loops.
        samples: Loops and what was written with them.
        use: Halting and experts at the trained depth.
    """

    curve: LoopCurve
    samples: tuple[tuple[int, str], ...]
    use: LoopUse

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        samples = [{"n_loops": n, "text": text} for n, text in self.samples]
        return {"curve": self.curve.to_json(), "samples": samples, "use": self.use.to_json()}


@dataclass(frozen=True)
class TaskResult:
    """A task model at every difficulty.

    Attributes:
        chance: Accuracy of an answer that ignores the map.
        deeper: Hops, and the accuracy with as many loops.
        stopped: Hops, and the accuracy with no more loops than in training.
        heat: Accuracy by hops and loops.
        uses: Hops -> halting and experts.
    """

    chance: float
    deeper: tuple[tuple[int, float], ...]
    stopped: tuple[tuple[int, float], ...]
    heat: DepthMap
    uses: dict[int, LoopUse]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "chance": self.chance,
            "accuracy_loops_equal_hops": dict(self.deeper),
            "accuracy_at_trained_loops": dict(self.stopped),
            "heat": self.heat.to_json(),
            "uses": {hops: use.to_json() for hops, use in self.uses.items()},
        }


def measure_text(
    model: OpenMythos, windows: TokenWindows, tokenizer: Tokenizer, trained: int, seed: int
) -> TextResult:
    """Sweep the loops over held-out text, and write at several depths from one prompt and seed."""

    def batches() -> Any:
        return islice(windows.evaluation_batches(), TEXT_BATCHES)

    curve = sweep(model, TEXT_LOOPS, lambda m, n: score(m, batches(), n), name="held-out text")
    prompt = torch.tensor([tokenizer.encode(PROMPT)])
    samples = []
    for n_loops in SAMPLE_LOOPS:
        written = model.generate(
            prompt,
            SAMPLE_TOKENS,
            n_loops,
            temperature=0.8,
            top_k=40,
            generator=torch.Generator().manual_seed(seed),
        )
        samples.append((n_loops, tokenizer.decode(written[0].tolist())))
    return TextResult(curve, tuple(samples), loop_use(model, islice(batches(), 2), trained))


def measure_task(
    model: OpenMythos, task: PointerChase, hops: Sequence[int], loops: Sequence[int]
) -> TaskResult:
    """Accuracy at every depth: with loops to match, with the trained number, with all others."""
    trained = task.max_hops * task.loops_per_hop
    deeper = [
        (k, accuracy(model, task, k, k * task.loops_per_hop, batches=TASK_BATCHES).accuracy)
        for k in hops
    ]
    stopped = [
        (k, accuracy(model, task, k, min(k * task.loops_per_hop, trained), batches=1).accuracy)
        for k in hops
    ]
    few = [k for k in hops if k <= 4 * task.max_hops]
    uses = {k: loop_use(model, task_batches(task, k, 1), max(loops)) for k in few}
    heat = depth_map(model, task, few, loops, batches=1, name="pointer chasing")
    return TaskResult(task.chance, tuple(deeper), tuple(stopped), heat, uses)
