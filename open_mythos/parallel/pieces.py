"""Pieces: what a rank holds of each tensor, in the coordinates of the network nobody divided."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from open_mythos.checkpoint.shard_files import Index, of_model
from open_mythos.checkpoint.sharded import Box, Piece
from open_mythos.parallel.division import Division, canonical
from open_mythos.parallel.gradients import local_part


Divisions = Mapping[str, Division]


def piece_of(tensor: Tensor, division: Division | None = None) -> Piece:
    """A tensor as a checkpoint sees it; its boxes are views of this rank's storage.

    Args:
        tensor: Plain, or a DTensor that FSDP2 has sharded along its first axis.
        division: How it was dealt out before that; None if it was not.
    """
    detached = tensor.detach()
    own, first = local_part(detached), _first_row(detached)
    shape = tuple(tensor.shape) if division is None else division.shape(tensor.shape)
    if division is None:
        return Piece(shape, (Box(tuple(_corner(own.ndim, first)), own),))
    return Piece(shape, tuple(_boxes(own, first, division)))


def _boxes(own: Tensor, first: int, division: Division) -> Iterator[Box]:
    dim = division.dim
    for whole, start, length in division.spans():
        offset = _corner(own.ndim, first)
        if dim:
            offset[dim] = whole
            yield Box(tuple(offset), own.narrow(dim, start, length))
            continue
        low, high = max(start, first), min(start + length, first + own.shape[0])
        if low < high:  # FSDP's rows and a section's overlap
            offset[0] = whole + low - start
            yield Box(tuple(offset), own.narrow(0, low - first, high - low))


def _corner(ndim: int, first: int) -> list[int]:
    return [first, *[0] * (ndim - 1)] if ndim else []


def _first_row(tensor: Tensor) -> int:
    """Where a DTensor's rows begin among all rows."""
    listed: Any = getattr(tensor, "__create_chunk_list__", None)
    return int(listed()[0].offsets[0]) if listed is not None and tensor.ndim else 0


# -- networks and what belongs to their parameters ---------------------------------------------


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, tied ones once, and the buffers that are saved with them."""
    buffers = {
        f"{at}.{name}" if at else name: buffer
        for at, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and name not in module._non_persistent_buffers_set
    }
    return {**dict(model.named_parameters()), **buffers}


def pieces_of(
    model: nn.Module, tensors: Mapping[str, Tensor], divisions: Divisions
) -> dict[str, Piece]:
    """A network and further tensors, by the names that they have in every layout.

    Args:
        model: The network.
        tensors: Called "KEY/PARAMETER" where they belong to a parameter; one of its shape is dealt
            out as it is. Others are the same on every rank.
        divisions: By canonical names.
    """
    own = model_tensors(model)
    found = {}
    for name, tensor in {**own, **tensors}.items():
        key, slash, rest = name.rpartition("/")
        parameter = own.get(rest)
        alike = parameter is not None and parameter.shape == tensor.shape
        division = divisions.get(canonical(rest)) if alike else None
        found[f"{key}{slash}{canonical(rest)}"] = piece_of(tensor, division)
    return found


def blanks_of(model: nn.Module, index: Index, divisions: Divisions) -> dict[str, Tensor]:
    """Room for what a checkpoint holds beside the model, laid out as this rank will hold it.

    Returns:
        "KEY/PARAMETER", by this model's own names, or any other name that is not the model's.
    """
    own = {canonical(name): (name, p) for name, p in model.named_parameters()}
    room = {}
    for name, entry in index.items():
        if of_model(name):
            continue
        key, _, rest = name.rpartition("/")
        mine, parameter = own.get(rest, (rest, None))
        if parameter is not None and entry.shape == _whole_shape(parameter, divisions.get(rest)):
            room[f"{key}/{mine}"] = torch.empty_like(parameter.detach(), dtype=entry.torch_dtype)
        else:
            room[f"{key}/{mine}"] = torch.empty(entry.shape, dtype=entry.torch_dtype)
    return room


def _whole_shape(tensor: Tensor, division: Division | None) -> tuple[int, ...]:
    return tuple(tensor.shape) if division is None else division.shape(tensor.shape)
