"""What can be counted instead of timed: operators that run, and graphs that were compiled."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode


class OpCounter(TorchDispatchMode):
    """Counts the operators that reach a kernel while it is entered, backward passes included.

    Views cost nothing on the device and are left out. `counts` maps an operator's name, e.g.
    "aten::mm", to how often it ran.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the operator and run it."""
        if not _view(func):
            self.counts[func.name().partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def _view(func: Any) -> bool:
    """Whether an operator only looks at its input in another shape."""
    marks = [result.alias_info for result in func._schema.returns]
    return bool(marks) and all(mark is not None and not mark.is_write for mark in marks)


def count_ops(step: Callable[[], object]) -> Counter[str]:
    """Operators of one step, by name; on the CPU, where nothing hides in another thread."""
    counter = OpCounter()
    with counter:
        step()
    return counter.counts


def compiled_graphs() -> int:
    """Graphs that torch.compile has made in this process so far."""
    made: int = counters["stats"]["unique_graphs"]
    return made


def forget_compiled() -> None:
    """Drop what torch.compile holds; its limit on variants of one function then counts anew."""
    torch.compiler.reset()
