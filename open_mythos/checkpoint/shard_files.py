"""Tensors in parts over several safetensors files: where each part lies, and how it is read."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from open_mythos.checkpoint.files import read_json, write_json
from open_mythos.errors import DamagedError


INDEX_FILE = "index.json"
INDEX_VERSION = 1
SHARDS = "shard_*.safetensors"


@dataclass(frozen=True)
class Chunk:
    """A box of a tensor, and where it is written.

    Attributes:
        offset: Where the box begins in the tensor.
        shape: Its size.
        file: Name of the file in the folder.
        key: Its name in that file.
    """

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    key: str


@dataclass(frozen=True)
class Entry:
    """One tensor on disk; its chunks fill it without overlap.

    Attributes:
        dtype: As torch names it, without "torch.".
        shape: Of the whole.
        chunks: Its parts.
    """

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself."""
        found = getattr(torch, self.dtype, None)
        if not isinstance(found, torch.dtype):
            raise DamagedError(f"{self.dtype!r} is no dtype; use an earlier checkpoint")
        return found


Index = Mapping[str, Entry]


def chunk_key(name: str, offset: Sequence[int]) -> str:
    """The name of a box in its file: the tensor's own, and where the box begins."""
    return f"{name}@{','.join(map(str, offset))}"


def write_index(folder: Path, index: Index) -> None:
    """Write down where every tensor lies."""
    tensors = {name: asdict(entry) for name, entry in sorted(index.items())}
    write_json(folder / INDEX_FILE, {"index_version": INDEX_VERSION, "tensors": tensors})


def read_index(folder: str | Path) -> Index:
    """Where every tensor of a folder lies, sharded or in whole safetensors files.

    Of tensors that are one (a tied head), only the first name is listed.

    Raises:
        DamagedError: If the index, or a file without one, cannot be read.
    """
    root = Path(folder)
    if not (root / INDEX_FILE).is_file():
        return dict(_whole_files(root))
    document = read_json(root / INDEX_FILE)
    try:
        if document["index_version"] > INDEX_VERSION:
            raise DamagedError(
                f"{root / INDEX_FILE} is of version {document['index_version']}, this open-mythos "
                f"reads up to {INDEX_VERSION}: pip install --upgrade open-mythos"
            )
        return {name: _entry(said) for name, said in document["tensors"].items()}
    except (KeyError, TypeError) as error:
        raise DamagedError(
            f"{root / INDEX_FILE} is no index ({error!r}); use an earlier checkpoint"
        ) from None


def _entry(said: dict[str, Any]) -> Entry:
    chunks = tuple(
        Chunk(tuple(c["offset"]), tuple(c["shape"]), c["file"], c["key"]) for c in said["chunks"]
    )
    return Entry(said["dtype"], tuple(said["shape"]), chunks)


def _whole_files(root: Path) -> Iterator[tuple[str, Entry]]:
    for path in sorted(root.glob("*.safetensors")):
        with open_shard(path) as file:
            for name in file.keys():  # noqa: SIM118 -- no mapping
                part = file.get_slice(name)
                shape = tuple(part.get_shape())
                dtype = str(file.get_tensor(name).dtype) if not shape else DTYPES[part.get_dtype()]
                chunk = Chunk((0,) * len(shape), shape, path.name, name)
                yield name, Entry(dtype.removeprefix("torch."), shape, (chunk,))


# What safetensors calls the dtypes that checkpoints hold.
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
    "BOOL": "bool",
}


def of_model(name: str) -> bool:
    """Whether a tensor is the model's: those of an optimizer are called "exp_avg/embed.weight"."""
    return "/" not in name


def open_shard(path: Path) -> Any:
    """A safetensors file, opened for reading parts of it.

    Raises:
        DamagedError: If it is missing, truncated, or no safetensors file.
    """
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise DamagedError(
            f"{path} cannot be read ({error}); use another copy or an earlier checkpoint"
        ) from None


def read_box(file: Any, chunk: Chunk, start: Sequence[int], shape: Sequence[int]) -> Tensor:
    """A box inside a chunk of an open file; `start` counts from the chunk's own beginning."""
    if not chunk.shape:
        whole: Tensor = file.get_tensor(chunk.key)
        return whole
    cut = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
    part: Tensor = file.get_slice(chunk.key)[cut]
    return part


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write contiguous tensors of the CPU as one safetensors file."""
    save_file(dict(tensors), str(path), metadata={"format": "pt"})


def consolidate(
    folder: str | Path, wanted: Callable[[str], bool] | Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Whole tensors on the CPU, from however many files; needs no process group.

    Args:
        folder: A sharded checkpoint, or one of whole safetensors files.
        wanted: Names, or which names; None is all.

    Raises:
        DamagedError: If a file is missing or cannot be read.
    """
    root, index = Path(folder), read_index(folder)
    pick = wanted if callable(wanted) else (None if wanted is None else set(wanted).__contains__)
    found = {
        name: torch.empty(entry.shape, dtype=entry.torch_dtype)
        for name, entry in index.items()
        if pick is None or pick(name)
    }
    with ExitStack() as opened:
        files: dict[str, Any] = {}
        for name, whole in found.items():
            for chunk in index[name].chunks:
                if chunk.file not in files:
                    files[chunk.file] = opened.enter_context(open_shard(root / chunk.file))
                origin = (0,) * len(chunk.shape)
                part = read_box(files[chunk.file], chunk, origin, chunk.shape)
                at = tuple(slice(a, a + n) for a, n in zip(chunk.offset, chunk.shape, strict=True))
                whole[at].copy_(part) if at else whole.copy_(part)
    return found
