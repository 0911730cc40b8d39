"""Batch, BatchSource and Courses: what trainer and evaluators read, and nothing more."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from open_mythos.errors import InputError, ShapeError


# Target value of a position that is not scored; PyTorch's cross entropy skips it by default.
IGNORE = -100


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's rows: what goes in, what should come out, and how deep to think.

    Attributes:
        ids: (B, S) int64 token ids.
        targets: (B, S) int64; the token wanted at each position, already shifted where the task
            is next-token prediction, IGNORE where nothing is scored.
        n_loops: Loops that the task asks for, or None where the depth sampler decides.
        level: Difficulty of these rows where a curriculum mixes several; 0 where it does not.
        documents: (B, S) int64; which of its row's documents each position belongs to, counted
            from 0, where positions may look at their own document only. None: at the whole row.
    """

    ids: Tensor
    targets: Tensor
    n_loops: int | None = None
    level: int = 0
    documents: Tensor | None = None

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.shape != self.targets.shape:
            raise ShapeError(
                f"ids {tuple(self.ids.shape)} and targets {tuple(self.targets.shape)} must be "
                "two (rows, positions) tensors of one shape"
            )
        if self.ids.dtype != torch.int64 or self.targets.dtype != torch.int64:
            raise InputError(
                f"ids and targets are int64, not {self.ids.dtype} and {self.targets.dtype}"
            )
        documents = self.documents
        if documents is not None and documents.shape != self.ids.shape:
            raise ShapeError(
                f"documents {tuple(documents.shape)} and ids {tuple(self.ids.shape)} must be of "
                "one shape"
            )
        if documents is not None and documents.dtype != torch.int64:
            raise InputError(f"documents are int64, not {documents.dtype}")
        if self.n_loops is not None and self.n_loops < 1:
            raise InputError(f"n_loops is {self.n_loops}; it must be at least 1, or None")

    @property
    def scored(self) -> int:
        """Number of positions that carry a target; waits for the device that holds them."""
        return int(self.scored_on_device)

    @property
    def scored_on_device(self) -> Tensor:
        """The same number as a scalar tensor beside the targets."""
        return (self.targets != IGNORE).sum()

    def to(self, device: torch.device | str) -> "Batch":
        """The same rows on another device; to a GPU they travel while the host goes on."""

        def moved(rows: Tensor) -> Tensor:
            if torch.device(device).type == "cuda" and rows.device.type == "cpu":
                rows = rows.pin_memory()  # from pageable memory the copy would wait for the device
            return rows.to(device, non_blocking=True)

        documents = None if self.documents is None else moved(self.documents)
        return replace(self, ids=moved(self.ids), targets=moved(self.targets), documents=documents)


@runtime_checkable
class Courses(Protocol):
    """A source of several things in turn, each of which has a level of its own."""

    def course(self, step: int) -> str:
        """Name of what the batch of a step is of; "" where all is one."""
        ...


class BatchSource(Protocol):
    """An endless, stateless supply of training batches.

    Stateless means that (source, step, level) fixes the batch for ever: resuming a run needs the
    step number and nothing else, and no order of calls can change what a step sees.
    """

    @property
    def vocab_size(self) -> int:
        """Every id and target lies in [0, vocab_size)."""
        ...

    @property
    def batch_size(self) -> int:
        """Rows of a batch; row r of step s is sample number s * batch_size + r."""
        ...

    @property
    def max_level(self) -> int:
        """Hardest level of the curriculum; 0 when there is none."""
        ...

    def batch(self, step: int, level: int = 0, rows: Sequence[int] | None = None) -> Batch:
        """The batch of one step; level 0 means the full difficulty.

        Args:
            step: Steps done before it.
            level: Of the curriculum.
            rows: Rows of the batch to return, each in [0, batch_size); None is all of them. What a
                row holds does not depend on which others are asked for, so that any number of
                ranks and passes see the same batch.

        Raises:
            InputError: When step is negative, level lies outside [0, max_level], or a row outside
                [0, batch_size).
        """
        ...
