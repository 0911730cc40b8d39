"""DCP's storage as safetensors and JSON: one file per rank, an index, a manifest; no pickle."""

import math
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from open_mythos.checkpoint.files import (
    TEMPORARY,
    manifest_entry,
    put_in_place,
    sync_path,
    sync_tree,
    write_manifest,
)
from open_mythos.checkpoint.shard_files import (
    Chunk,
    Entry,
    Index,
    chunk_key,
    open_shard,
    read_box,
    write_index,
    write_shard,
)
from open_mythos.errors import CheckpointError


Fill = Callable[[Path], None]


class ShardWriter(StorageWriter):
    """One safetensors file per rank, an index, and a manifest; all or nothing."""

    def __init__(self, target: Path, fill: Fill | None, copied: Callable[[], Any]) -> None:
        """Write to a hidden sibling of the target.

        Args:
            target: The folder's name in the end.
            fill: Adds other files to it, on the first rank.
            copied: Called when the values are in host memory and may change.
        """
        self.target, self.fill, self.copied = target, fill, copied
        self.fresh = target.with_name(f".{target.name}{TEMPORARY}ranks")
        self.rank, self.first = 0, False

    def reset(self, checkpoint_id: Any = None) -> None:
        """The target is known already."""

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **kwargs: Any) -> None:
        """Make room for the files, on the first rank."""
        self.rank, self.first = int(kwargs.get("rank") or 0), is_coordinator
        if is_coordinator:
            shutil.rmtree(self.fresh, ignore_errors=True)
            self.fresh.mkdir(parents=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """As planned."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Copy this rank's boxes to the host, let training go on, and write them."""
        tensors = {}
        for item in plan.items:
            box = planner.resolve_data(item)
            assert isinstance(box, Tensor)
            key = chunk_key(item.index.fqn, item.index.offset or ())
            tensors[key] = _copied(box)
        self.copied()
        path, entry = self.fresh / f"shard_{self.rank:05d}.safetensors", {}
        if tensors:
            write_shard(path, tensors)
            sync_path(path)
            entry = manifest_entry(path)
        done: Future[list[WriteResult]] = Future()
        done.set_result(
            [
                WriteResult(
                    item.index,
                    item.tensor_storage_size() or 0,
                    {"file": path.name, "entry": entry},
                )
                for item in plan.items
            ]
        )
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Index, manifest, and the name: on the first rank, when all have written."""
        stored = {r.index: r.storage_data for some in results for r in some}
        write_index(self.fresh, index_of(metadata, stored))
        if self.fill is not None:
            self.fill(self.fresh)
        write_manifest(self.fresh, {s["file"]: s["entry"] for s in stored.values()})
        sync_tree(self.fresh)
        put_in_place(self.fresh, self.target)
        sync_path(self.target.parent)

    def close(self) -> None:
        """Delete what a saving that failed has left."""
        if self.first:
            shutil.rmtree(self.fresh, ignore_errors=True)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:  # noqa: ARG003
        """DCP does not pick this writer by name."""
        return False


def index_of(metadata: Metadata, stored: Mapping[MetadataIndex, dict[str, Any]]) -> Index:
    """Where DCP put every tensor.

    Raises:
        CheckpointError: If no rank holds some part of one.
    """
    index = {}
    for name, described in metadata.state_dict_metadata.items():
        assert isinstance(described, TensorStorageMetadata)
        chunks = tuple(
            Chunk(
                tuple(chunk.offsets),
                tuple(chunk.sizes),
                stored[MetadataIndex(name, chunk.offsets)]["file"],
                chunk_key(name, chunk.offsets),
            )
            for chunk in described.chunks
        )
        if sum(math.prod(c.shape) for c in chunks) != described.size.numel():
            raise CheckpointError(f"no rank holds all parts of {name!r} between them: {chunks}")
        dtype = str(described.properties.dtype).removeprefix("torch.")
        index[name] = Entry(dtype, tuple(described.size), chunks)
    return index


def _copied(box: Tensor) -> Tensor:
    """A box in contiguous host memory of its own."""
    host = torch.empty(box.shape, dtype=box.dtype)
    return host.copy_(box.detach())


class ShardReader(StorageReader):
    """Reads boxes of safetensors files."""

    def __init__(self, folder: Path, index: Index) -> None:
        """Read from `folder`, laid out as `index` says."""
        self.folder, self.index = folder, index

    def reset(self, checkpoint_id: Any = None) -> None:
        """The folder is known already."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """The index as DCP describes it."""
        return Metadata(
            {
                name: TensorStorageMetadata(
                    TensorProperties(entry.torch_dtype),
                    torch.Size(entry.shape),
                    [
                        ChunkStorageMetadata(torch.Size(c.offset), torch.Size(c.shape))
                        for c in entry.chunks
                    ],
                )
                for name, entry in self.index.items()
            }
        )

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *_: Any) -> None:
        """Nothing to prepare."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As planned."""
        return plans

    @torch.no_grad()
    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read every item into its place."""
        with ExitStack() as opened:
            files: dict[str, Any] = {}
            for item in plan.items:
                chunk = self._chunk(item.storage_index)
                if chunk.file not in files:
                    path = self.folder / chunk.file
                    files[chunk.file] = opened.enter_context(open_shard(path))
                part = read_box(files[chunk.file], chunk, item.storage_offsets, item.lengths)
                planner.resolve_tensor(item).copy_(part)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _chunk(self, at: MetadataIndex) -> Chunk:
        chunks = self.index[at.fqn].chunks
        return next(chunk for chunk in chunks if chunk.offset == tuple(at.offset or ()))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:  # noqa: ARG003
        """DCP does not pick this reader by name."""
        return False
