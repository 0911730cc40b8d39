"""One recipe per depth task, each small enough for a CPU: its first levels take a minute or two.

Each says what seed 0 reached: accuracy on held-out batches, CPU seconds of one core (docs/tasks.md
has more of it).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from open_mythos.train.deep_recipes import tasks_5m
from open_mythos.train.networks import small
from open_mythos.train.recipe import (
    CurriculumConfig,
    DataConfig,
    DepthConfig,
    OptimConfig,
    Recipe,
)


def solver(
    name: str, data: DataConfig, *, steps: int, max_seq_len: int, lr: float = 5e-3
) -> Recipe:
    """A small network on a task, with the settings that the demo's pointer chasing was tuned for.

    Args:
        name: Name of the run.
        data: The task.
        steps: Optimizer steps.
        max_seq_len: Room for rows, those of evaluation at twice the trained difficulty included.
        lr: Peak learning rate.
    """
    vocab_size = data.build_task(seed=0).vocab_size
    return Recipe(
        name=name,
        model=small(vocab_size=vocab_size, dim=64, max_seq_len=max_seq_len),
        data=data,
        depth=DepthConfig(kind="poisson", mean=4, min=1, max=8),
        optim=OptimConfig(
            lr=lr, betas=(0.9, 0.98), warmup_steps=50, final_ratio=0.05, decay_embeddings=True
        ),
        curriculum=CurriculumConfig(threshold=0.95, momentum=0.5, min_steps=4),
        router_bias_step=0.01,
        steps=steps,
        eval_every=steps // 2,
        save_every=100,
    )


def task_pointer() -> Recipe:
    """Pointer chasing on cycles of 11 states, loops tied to hops: 6 hops at 1.00 in 30 s."""
    data = DataConfig(
        kind="pointer",
        batch_size=64,
        states=11,
        queries=11,
        max_hops=6,
        layout="joint",
        maps="cycle",
        task={"split": True},
    )
    return solver("task-pointer", data, steps=300, max_seq_len=64)


def task_p_hop() -> Recipe:
    """p-hop induction over four symbols, loops tied to hops: 4 hops at 1.00 in 24 s."""
    data = DataConfig(
        kind="p-hop", batch_size=32, task={"symbols": 4, "length": 32, "max_level": 4}
    )
    return solver("task-p-hop", data, steps=400, max_seq_len=128)


def task_parity() -> Recipe:
    """Parity of 24 bits behind a start: 24 bits at 1.00 with 8 loops (0.68 with one) in 24 s."""
    data = DataConfig(kind="parity", batch_size=64, length=24, task={"start": True, "split": True})
    return solver("task-parity", data, steps=250, max_seq_len=64)


def task_sums() -> Recipe:
    """Sums modulo 5: 8 terms at 0.99, 12 at 0.90 in 34 s."""
    data = DataConfig(kind="sums", batch_size=64, task={"modulus": 5, "max_level": 12})
    return solver("task-sums", data, steps=600, max_seq_len=64)


def task_words() -> Recipe:
    """Products in S3: 12 factors at 0.96 with 8 loops (0.49 with one) in 31 s."""
    data = DataConfig(kind="words", batch_size=64, task={"group": "s3", "max_level": 12})
    return solver("task-words", data, steps=600, max_seq_len=64)


def task_addition() -> Recipe:
    """Sums of two numbers of up to three digits: 3 digits at 0.97 (0.80 with one loop) in 117 s.

    Levels last longer than in the other recipes, and rates are lower: at 5e-3 and a curriculum as
    quick as theirs each longer sum undid the shorter ones.
    """
    data = DataConfig(kind="addition", batch_size=64, task={"queries": 3, "max_level": 3})
    made = solver("task-addition", data, steps=800, max_seq_len=96, lr=3e-3)
    return replace(made, curriculum=CurriculumConfig(threshold=0.95, momentum=0.9, min_steps=20))


def task_variables() -> Recipe:
    """Programs of 8 assignments, each one token: 4 deep at 0.95 (0.68 with one loop) in 71 s."""
    data = DataConfig(
        kind="variables",
        batch_size=64,
        task={"variables": 8, "values": 8, "queries": 8, "layout": "joint", "max_level": 4},
    )
    return solver("task-variables", data, steps=800, max_seq_len=64)


def task_knowledge() -> Recipe:
    """A world of 32 entities and 4 relations, up to three relations a question.

    Held-out compositions of three at 1.00, and of four, which are not trained, at 1.00 with 4 loops
    (0.04 with one), in 59 s.
    """
    data = DataConfig(
        kind="knowledge",
        batch_size=32,
        task={"entities": 32, "relations": 4, "queries": 16, "max_level": 3},
    )
    return solver("task-knowledge", data, steps=500, max_seq_len=112)


def task_dyck() -> Recipe:
    """Three kinds of brackets, asked up to four levels deep: 4 levels at 0.94 in 35 s."""
    data = DataConfig(kind="dyck", batch_size=32, task={"kinds": 3, "length": 32, "max_level": 4})
    return solver("task-dyck", data, steps=400, max_seq_len=96)


def task_maze() -> Recipe:
    """Mazes of 4 x 4 cells, ways of up to four steps: one step at 0.95, two at 0.91 in 84 s."""
    data = DataConfig(kind="maze", batch_size=64, task={"side": 4, "queries": 16, "max_level": 4})
    return solver("task-maze", data, steps=400, max_seq_len=64)


TASK_RECIPES: dict[str, Callable[[], Recipe]] = {
    "task-pointer": task_pointer,
    "task-p-hop": task_p_hop,
    "task-parity": task_parity,
    "task-sums": task_sums,
    "task-words": task_words,
    "task-addition": task_addition,
    "task-variables": task_variables,
    "task-knowledge": task_knowledge,
    "task-dyck": task_dyck,
    "task-maze": task_maze,
    "task-mixed": partial(tasks_5m, "cpu"),
}
