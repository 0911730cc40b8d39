"""Tasks trained on difficulties of up to 8 and to be answered at 16 and 32 by more loops alone.

What they have in common, and why. Rows have one length at every difficulty, and attention sees no
distance in evaluation that it did not see in training: of prefix tasks several problems share a row
(`room`), of pointers and strings a row shows the whole. A batch is granted a loop for each unit of
its difficulty and up to as many spare ones as `spare` says, so that an answer once found has to
stay: the loop is free-running, and may be asked for more loops than any task needs. The curriculum
goes on at 95 %; behind it the rate falls to nothing, which makes a step exact. On rows of their own
length, products of 12 factors came to 0.96 and of 24 to 0.5 (docs/log.md).

Each recipe has a size for a GPU and, as `NAME-cpu`, one that takes one core about two minutes.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from open_mythos.data.tasks.registry import Setting, TaskKind
from open_mythos.train.networks import small
from open_mythos.train.recipe import (
    CurriculumConfig,
    DataConfig,
    EngineConfig,
    OptimConfig,
    OptimKind,
    Recipe,
)


Scale = Literal["cpu", "gpu"]
# Hardest difficulty in training; and in evaluation, so that rows have room for it.
TRAINED, FARTHEST = 8, 32


def deep(
    name: str,
    data: DataConfig,
    scale: Scale,
    *,
    steps: int,
    dim: int = 256,
    prelude_layers: int = 1,
    kind: OptimKind = "adamw",
) -> Recipe:
    """A network of a scale's size on a task, with what the tasks here have in common.

    Args:
        name: Of the run, without the scale.
        data: The task, rows a step included.
        scale: "cpu" or "gpu".
        steps: Optimizer steps.
        dim: Width on a GPU; on a CPU it is 64.
        prelude_layers: Blocks before the loop.
        kind: The optimizer, at 4e-3 on a CPU; on a GPU Muon at 2e-3, AdamW at 1e-3.
    """
    task = data.build_task(seed=0)
    most = task.max_level
    room = max(task.row_length(d) for d in (1, most, FARTHEST // TRAINED * most))
    dim = 64 if scale == "cpu" else dim
    model = replace(
        small(vocab_size=task.vocab_size, dim=dim, max_seq_len=room),
        prelude_layers=prelude_layers,
        core_ffn="dense",
        dense_hidden=2 * dim,
    )
    small_steps = CurriculumConfig(threshold=0.95, momentum=0.8, min_steps=10)
    large_steps = CurriculumConfig(threshold=0.95, momentum=0.9, min_steps=20)
    return Recipe(
        name=name if scale == "gpu" else f"{name}-cpu",
        model=model,
        data=data,
        optim=OptimConfig(
            kind=kind,
            lr=4e-3 if scale == "cpu" else 2e-3 if kind == "muon" else 1e-3,
            betas=(0.9, 0.98),
            warmup_steps=50 if scale == "cpu" else 200,
            schedule="linear",
            final_ratio=0.01,
            weight_decay=0.01,
        ),
        curriculum=small_steps if scale == "cpu" else large_steps,
        engine=EngineConfig(precision="auto", compile=scale == "gpu"),
        router_bias_step=0.0,
        steps=steps,
        eval_every=steps // 2,
        eval_loops=(TRAINED, 4 * TRAINED),
        save_every=1000,
        keep_last=1,
    )


def task_data(kind: TaskKind, rows: int, **settings: Setting) -> DataConfig:
    """A task trained on difficulties of up to TRAINED, with a loop for each unit."""
    common: dict[str, Setting] = {"max_level": TRAINED, "loops_per_level": 1}
    return DataConfig(kind=kind, batch_size=rows, task={**common, **settings})


def deep_words(scale: Scale = "gpu") -> Recipe:
    """Products in A5, whose word problem is complete for NC1 (Barrington 1989); cpu: in S3.

    600 steps in S3 with AdamW came to 0.47 of 32 factors, with Muon to 1.000, with 64 to 256 loops.
    """
    if scale == "cpu":
        data = task_data("words", 32, group="s3", room=36, spare=4)
        return deep("deep-words", data, scale, steps=600, kind="muon")
    data = task_data("words", 128, group="a5", room=66, spare=8)
    return deep("deep-words", data, scale, steps=4000, kind="muon")


def deep_sums(scale: Scale = "gpu") -> Recipe:
    """Sums modulo 7; cpu: modulo 5."""
    if scale == "cpu":
        data = task_data("sums", 32, modulus=5, room=36, spare=4)
        return deep("deep-sums", data, scale, steps=500)
    data = task_data("sums", 128, modulus=7, room=66, spare=8)
    return deep("deep-sums", data, scale, steps=3000, dim=128)


def deep_parity(scale: Scale = "gpu") -> Recipe:
    """Parity of bits behind a start."""
    rows, room, spare = (32, 36, 4) if scale == "cpu" else (128, 66, 8)
    settings: dict[str, Setting] = {"start": True, "loops_per_level": 1}
    data = DataConfig(
        kind="parity",
        batch_size=rows,
        length=TRAINED,
        task={**settings, "room": room, "spare": spare},
    )
    return deep("deep-parity", data, scale, steps=500 if scale == "cpu" else 3000, dim=128)


def deep_knowledge(scale: Scale = "gpu") -> Recipe:
    """Compositions of 16 (cpu: 4) relations between 64 (16) entities, which only weights know."""
    if scale == "cpu":
        data = task_data("knowledge", 32, entities=16, relations=4, room=66, spare=4)
        return deep("deep-knowledge", data, scale, steps=700)
    data = task_data("knowledge", 128, entities=64, relations=16, room=66, spare=8)
    return deep("deep-knowledge", data, scale, steps=3000)


def deep_pointer(scale: Scale = "gpu", core_layers: int = 2) -> Recipe:
    """Pointer chasing on a cycle of 17 (cpu: 7) states, hops told by chains of hop tokens.

    A cycle, because a random map of few states shrinks to short ones: f^8 and f^16 then agree more
    often than not, and stopping at 8 hops would look like an answer to 16. On a cycle of a prime
    number of states other hops are always other answers, unless they differ by that number. One
    loop has to fetch the state before and to look it up, hence two layers of attention in it. In
    3,000 steps on one H100 32 hops came to 1.000 with Muon and to 0.946 with AdamW; on a CPU, with
    AdamW and 1,000 steps, to 1.000 with 64 to 256 loops.
    """
    cpu = scale == "cpu"
    data = DataConfig(
        kind="pointer",
        batch_size=32 if cpu else 128,
        states=7 if cpu else 17,
        max_hops=TRAINED,
        layout="joint",
        maps="cycle",
        task={
            "split": not cpu,
            "chain": FARTHEST + 4 if cpu else 2 * FARTHEST + 2,
            "spare": 4 if cpu else 8,
        },
    )
    kind: OptimKind = "adamw" if cpu else "muon"
    made = deep("deep-pointer", data, scale, steps=1000 if cpu else 3000, kind=kind)
    return replace(made, model=replace(made.model, core_layers=core_layers))


def deep_p_hop(scale: Scale = "gpu") -> Recipe:
    """p-hop induction over three symbols in rows of 192, loops tied to hops; the row tells p too.

    The loop does not need to be told, a network without loops does: both are shown the same rows.
    """
    settings: dict[str, Setting] = {"symbols": 3, "length": 192, "ring": FARTHEST + 8}
    data = task_data("p-hop", 8 if scale == "cpu" else 96, **settings)
    return deep("deep-p-hop", data, scale, steps=400 if scale == "cpu" else 3000, prelude_layers=2)


def pointer_64(layout: Literal["pairs", "joint"] = "pairs") -> Recipe:
    """Pointer chasing over 64 states, as `pointer_16` but for rows of 128 shown and 64 asked."""
    data = DataConfig(
        kind="pointer",
        batch_size=128,
        states=64,
        queries=64,
        max_hops=TRAINED,
        layout=layout,
        maps="random",
        task={"split": True},
    )
    name = "pointer-64" if layout == "pairs" else "pointer-64-joint"
    made = deep(name, data, "gpu", steps=8000, prelude_layers=2, kind="muon")
    return replace(made, optim=replace(made.optim, lr=4e-3), eval_loops=(TRAINED, 64))


def tasks_5m(scale: Scale = "gpu") -> Recipe:
    """One network of 4.3M parameters for products, relations, p-hop, sums, parity and pointers.

    Six tasks in turn, each with a curriculum of its own; see `MixedTasks`. On a CPU it is called
    task-mixed, and smaller.
    """
    cpu = scale == "cpu"
    settings: dict[str, Setting] = {"extent": "small" if cpu else "full", "spare": 4 if cpu else 8}
    data = DataConfig(kind="mixed", batch_size=16 if cpu else 128, task=settings)
    steps = 1200 if cpu else 9000
    kind: OptimKind = "adamw" if cpu else "muon"
    made = deep("tasks-5m", data, scale, steps=steps, prelude_layers=2, kind=kind)
    name = "task-mixed" if cpu else "tasks-5m"
    model = replace(made.model, dense_hidden=4 * made.model.dim)
    return replace(made, name=name, model=model, eval_every=0, eval_loops=(4,) if cpu else (8, 32))


BY_NAME: dict[str, Callable[[Scale], Recipe]] = {
    "deep-words": deep_words,
    "deep-sums": deep_sums,
    "deep-parity": deep_parity,
    "deep-knowledge": deep_knowledge,
    "deep-p-hop": deep_p_hop,
    "deep-pointer": deep_pointer,
}
DEEP_RECIPES: dict[str, Callable[[], Recipe]] = {
    "pointer-64": pointer_64,
    "tasks-5m": tasks_5m,
    "pointer-64-joint": partial(pointer_64, "joint"),
    **{name: partial(make, "gpu") for name, make in BY_NAME.items()},
    **{f"{name}-cpu": partial(make, "cpu") for name, make in BY_NAME.items()},
}
