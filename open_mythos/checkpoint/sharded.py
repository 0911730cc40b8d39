"""Checkpoints that many ranks write and read together, in whatever parts each of them holds.

torch.distributed.checkpoint (DCP) plans who writes what, and which part of which file serves whom;
its own files hold a pickle, so that here it writes and reads safetensors and JSON.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future as Later
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from open_mythos.checkpoint.shard_files import read_index
from open_mythos.checkpoint.shard_storage import Fill, ShardReader, ShardWriter
from open_mythos.errors import CheckpointError, DamagedError


@dataclass(frozen=True)
class Box:
    """A part of a tensor that this rank holds.

    Attributes:
        offset: Where it begins in the whole.
        part: Its values: a view of what is trained, read when saving and written when loading.
    """

    offset: tuple[int, ...]
    part: Tensor


@dataclass(frozen=True)
class Piece:
    """What this rank holds of one tensor, in the coordinates of the whole.

    Attributes:
        shape: Of the whole.
        boxes: None, one or several.
    """

    shape: tuple[int, ...]
    boxes: tuple[Box, ...]

    @classmethod
    def whole(cls, tensor: Tensor) -> "Piece":
        """A tensor that this rank holds whole."""
        return cls(tuple(tensor.shape), (Box((0,) * tensor.ndim, tensor.detach()),))

    def at(self, index: MetadataIndex) -> Tensor:
        """The box that begins where `index` says."""
        place = tuple(index.offset or ())
        return next(b.part for b in self.boxes if b.offset == place and b.part.numel())

    def chunks(self) -> list[ChunkStorageMetadata]:
        """The boxes as DCP describes them."""
        return [
            ChunkStorageMetadata(torch.Size(box.offset), box.part.shape)
            for box in self.boxes
            if box.part.numel()
        ]


Pieces = Mapping[str, Piece]


# -- saving --------------------------------------------------------------------------------------


class Saving:
    """A checkpoint that is being written; training goes on as soon as its values are copied."""

    def __init__(self, target: Path) -> None:
        """Nothing is written yet."""
        self.target = target
        self.copied = Event()
        self._done: Later[None] = Later()

    def run(self, work: Callable[[], None]) -> None:
        """Do the work and remember how it ended."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 -- raised again by `wait`
            self._done.set_exception(error)
        else:
            self._done.set_result(None)
        finally:
            self.copied.set()

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._done.done()

    def wait(self) -> Path:
        """The folder, once it is whole.

        Raises:
            CheckpointError: If any rank could not write its part; the folder is not there then.
        """
        self._done.result()
        return self.target


def save_sharded(
    target: str | Path,
    pieces: Pieces,
    *,
    fill: Fill | None = None,
    group: ProcessGroup | None = None,
    wait: bool = True,
) -> Saving:
    """Write a checkpoint folder that appears under its name whole or not at all.

    All ranks call this at the same point; every part is written once, by one of those that hold it.
    The folder must be on a file system that all of them see.

    Args:
        target: The folder; another one of that name stands until this one is complete.
        pieces: What this rank holds, by the tensors' names.
        fill: Called on the first rank to add other files; captures what it writes beforehand where
            it runs beside training.
        group: A gloo group of the ranks; None where this process is alone. Where `wait` is False
            nobody else may use it until the saving has ended.
        wait: Come back when the folder is there; otherwise as soon as the values are copied to
            host memory. The next saving must not begin before this one has ended.

    Raises:
        CheckpointError: If any rank could not write its part.
    """
    saving = Saving(Path(target).absolute())
    writer = ShardWriter(saving.target, fill, saving.copied.set)

    def work() -> None:
        try:
            with _alone_in_peace(group), _plain_errors(f"{target} could not be written"):
                save(
                    dict(pieces),
                    storage_writer=writer,
                    planner=PieceSavePlanner(),
                    process_group=group,
                    no_dist=group is None,
                )
        finally:
            writer.close()

    if wait:
        saving.run(work)
        saving.wait()
        return saving
    Thread(target=saving.run, args=(work,), name="checkpoint").start()
    saving.copied.wait()
    return saving


class PieceSavePlanner(DefaultSavePlanner):
    """DCP's planner, told what pieces are made of; who writes a repeated box is its decision."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        """One item per box."""
        self.plan = SavePlan(
            [
                WriteItem(
                    index=MetadataIndex(name, chunk.offsets),
                    type=WriteItemType.SHARD,
                    tensor_data=TensorWriteData(
                        chunk,
                        TensorProperties(piece.boxes[0].part.dtype),
                        torch.Size(piece.shape),
                    ),
                )
                for name, piece in self.state_dict.items()
                for chunk in piece.chunks()
            ]
        )
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """The box that an item names."""
        piece: Piece = self.state_dict[index.fqn]
        return piece.at(index)


# -- loading -------------------------------------------------------------------------------------


def load_sharded(folder: str | Path, pieces: Pieces) -> None:
    """Fill this rank's pieces from a checkpoint, whatever parts it was written in.

    Each rank reads what it needs by itself; nobody waits for another. The files are not checked
    for damage here (`files.check_folder`).

    Raises:
        CheckpointError: If the folder lacks a tensor, or has one of another shape.
        DamagedError: If a file is missing or cannot be read.
    """
    index = read_index(folder)
    for name, piece in pieces.items():
        if name not in index:
            raise CheckpointError(f"{folder} has no {name!r}; it belongs to another model")
        if index[name].shape != piece.shape:
            raise CheckpointError(
                f"{folder} has {name!r} of shape {index[name].shape}, this model's is "
                f"{piece.shape}; it belongs to another model"
            )
    with _alone_in_peace(None), _plain_errors(f"{folder} could not be read"):
        load(
            dict(pieces),
            storage_reader=ShardReader(Path(folder), index),
            planner=PieceLoadPlanner(),
            no_dist=True,
        )


class PieceLoadPlanner(DefaultLoadPlanner):
    """DCP's planner, told what pieces are made of."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Take the pieces as they are."""
        self.state_dict, self.metadata, self.is_coordinator = state_dict, metadata, is_coordinator

    def create_local_plan(self) -> LoadPlan:
        """What of which saved box goes where in which of this rank's."""
        assert self.metadata is not None
        items = []
        for name, piece in self.state_dict.items():
            saved = self.metadata.state_dict_metadata[name]
            assert isinstance(saved, TensorStorageMetadata)
            items += create_read_items_for_chunk_list(name, saved, piece.chunks())
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """The box that an item is read into."""
        piece: Piece = self.state_dict[index.fqn]
        return piece.at(index)


# -- errors --------------------------------------------------------------------------------------


@contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """DCP's collection of every rank's failures as one error, the first of them in words."""
    try:
        yield
    except CheckpointException as failure:
        rank, (error, _) = next(iter(failure.failures.items()))
        if isinstance(error, KeyboardInterrupt):
            raise error from None
        kind = DamagedError if isinstance(error, DamagedError) else CheckpointError
        raise kind(f"{what} (rank {rank}: {error!r})") from error


@contextmanager
def _alone_in_peace(group: ProcessGroup | None) -> Iterator[None]:
    """Without the warning that DCP gives a process that saves or loads by itself."""
    if group is not None:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield
