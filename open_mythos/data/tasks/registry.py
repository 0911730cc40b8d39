"""The tasks by name, and how one is made from a recipe's settings."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Literal

from open_mythos.data.tasks.addition import Addition
from open_mythos.data.tasks.dyck import DyckNesting
from open_mythos.data.tasks.induction import InductionHops
from open_mythos.data.tasks.knowledge import KnowledgeHops
from open_mythos.data.tasks.maze import MazePath
from open_mythos.data.tasks.mixed import MixedTasks
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.data.tasks.prefix import PrefixParity, PrefixProduct, PrefixSum
from open_mythos.data.tasks.task import GeneratedTask
from open_mythos.data.tasks.variables import VariableChain
from open_mythos.errors import InputError, did_you_mean


Setting = bool | int | str
TaskKind = Literal[
    "pointer",
    "p-hop",
    "parity",
    "sums",
    "words",
    "addition",
    "variables",
    "knowledge",
    "dyck",
    "maze",
    "mixed",
]

TASKS: dict[str, type[GeneratedTask]] = {
    "pointer": PointerChase,
    "p-hop": InductionHops,
    "parity": PrefixParity,
    "sums": PrefixSum,
    "words": PrefixProduct,
    "addition": Addition,
    "variables": VariableChain,
    "knowledge": KnowledgeHops,
    "dyck": DyckNesting,
    "maze": MazePath,
    "mixed": MixedTasks,
}


def settings_of(kind: str) -> tuple[str, ...]:
    """The settings that a task takes beside batch_size and seed.

    Raises:
        InputError: If no task has that name.
    """
    if kind not in TASKS:
        raise InputError(f"no task is called {kind!r}; {did_you_mean(kind, TASKS)}")
    names = (field.name for field in fields(TASKS[kind]))  # type: ignore[arg-type]
    return tuple(name for name in names if name not in ("batch_size", "seed"))


def build_task(
    kind: str, settings: Mapping[str, Setting], *, batch_size: int, seed: int
) -> GeneratedTask:
    """The named task; what `settings` leaves out is as the task has it.

    Raises:
        InputError: If there is no such task, it has no such setting, or a value does not fit.
    """
    known = settings_of(kind)
    for name in settings:
        if name not in known:
            raise InputError(f"{kind} has no setting {name!r}; {did_you_mean(name, known)}")
    values: dict[str, Setting] = {**settings, "batch_size": batch_size, "seed": seed}
    return TASKS[kind](**values)
