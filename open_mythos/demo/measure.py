"""What the demo measures on its trained models, as records that survive in JSON."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch

from open_mythos.data.batch import Batch
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.data.tokenizer import Tokenizer
from open_mythos.data.windows import TokenWindows
from open_mythos.demo.plan import Plan
from open_mythos.eval.accuracy import accuracy, task_batches
from open_mythos.eval.halting import LoopUse, loop_use
from open_mythos.eval.loop_curve import DepthMap, LoopCurve, depth_map, sweep
from open_mythos.eval.perplexity import score
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.mode import evaluating


PROMPT = "HAMLET:\n"


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
class HaltingMap:
    """What each position of one sequence has spent of its halting probability by each loop.

    Attributes:
        labels: The positions: entries of the map as a>b, queries as x?.
        spent: spent[position][loop], from 0 to 1.
        queries: Positions at the end that are asked.
    """

    labels: tuple[str, ...]
    spent: tuple[tuple[float, ...], ...]
    queries: int

    @property
    def halted_queries(self) -> float:
        """Share of the queries that had halted before the last loop."""
        rows = self.spent[-self.queries :]
        return sum(len(row) > 1 and row[-2] > 0.999 for row in rows) / len(rows)


@dataclass(frozen=True)
class TaskResult:
    """A task model at every difficulty.

    Attributes:
        chance: Accuracy of an answer that ignores the map.
        deeper: Hops, and the accuracy with as many loops.
        stopped: Hops, and the accuracy with no more loops than in training.
        heat: Accuracy by hops and loops.
        uses: Hops -> halting and experts.
        halting: Halting by position at the trained depth; None where halting plays no part.
    """

    chance: float
    deeper: tuple[tuple[int, float], ...]
    stopped: tuple[tuple[int, float], ...]
    heat: DepthMap
    uses: dict[int, LoopUse]
    halting: HaltingMap | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "chance": self.chance,
            "accuracy_loops_equal_hops": dict(self.deeper),
            "accuracy_at_trained_loops": dict(self.stopped),
            "heat": self.heat.to_json(),
            "uses": {hops: use.to_json() for hops, use in self.uses.items()},
            "halting": None if self.halting is None else asdict(self.halting),
        }


def measure_text(
    model: OpenMythos, windows: TokenWindows, tokenizer: Tokenizer, plan: Plan
) -> TextResult:
    """Sweep the loops over held-out text, and write at several depths from one prompt and seed."""

    def batches(count: int) -> Iterator[Batch]:
        return islice(windows.evaluation_batches(), count)

    curve = sweep(
        model,
        plan.text_loops,
        lambda m, n: score(m, batches(plan.text_batches), n),
        name="held-out text",
    )
    device = model.embed.weight.device
    prompt = torch.tensor([tokenizer.encode(PROMPT)], device=device)
    samples = []
    for n_loops in plan.sample_loops:
        written = model.generate(
            prompt,
            plan.sample_tokens,
            n_loops,
            temperature=0.8,
            top_k=40,
            generator=torch.Generator(device).manual_seed(plan.seed),
        )
        samples.append((n_loops, tokenizer.decode(written[0].tolist())))
    use = loop_use(model, batches(2), plan.trained_loops)
    return TextResult(curve, tuple(samples), use)


def measure_task(model: OpenMythos, task: PointerChase, plan: Plan) -> TaskResult:
    """Accuracy at every depth: with loops to match, with the trained number, with all others."""
    per_hop, trained = task.loops_per_hop, task.max_hops * task.loops_per_hop

    def share(hops: int, loops: int) -> float:
        return accuracy(model, task, hops, loops, batches=plan.task_batches).accuracy

    deeper = [(k, share(k, k * per_hop)) for k in plan.hops]
    stopped = [(k, share(k, min(k * per_hop, trained))) for k in plan.hops]
    rows = [k for k in plan.hops if k * per_hop <= max(plan.heat_loops)]
    uses = {k: loop_use(model, task_batches(task, k, 1), max(plan.heat_loops)) for k in rows}
    heat = depth_map(model, task, rows, plan.heat_loops, batches=1, name="pointer chasing")
    halting = halting_map(model, task, task.max_hops, trained)
    return TaskResult(task.chance, tuple(deeper), tuple(stopped), heat, uses, halting)


@torch.inference_mode()
def halting_map(
    model: OpenMythos, task: PointerChase, hops: int, n_loops: int
) -> HaltingMap | None:
    """The halting of every position of one held-out sequence; None without halting."""
    ids = task.evaluation_batch(hops).ids[:1]
    with evaluating(model):
        output = model(ids.to(model.embed.weight.device), n_loops, return_output=True)
    if output.halting_weights is None:
        return None
    shown = ids[0].tolist()
    entries, asked = shown[: -task.queries], shown[-task.queries :]
    if task.layout == "joint":
        names = [f"{i // task.states}>{i % task.states}" for i in entries]
    else:
        names = [str(i) for i in entries]
    names += [f"{i - task.state_offset}?" for i in asked]
    spent = output.halting_weights[:, 0].cumsum(0)
    unrun = spent[-1:].expand(n_loops - output.n_loops, -1)  # all had halted: nothing more to spend
    rows = torch.cat((spent, unrun)).t().tolist()
    return HaltingMap(tuple(names), tuple(tuple(row) for row in rows), task.queries)
