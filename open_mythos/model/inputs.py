"""The door: what a forward pass is given, checked once and made explicit."""

import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CacheError, InputError
from open_mythos.nn.loop.per_row import RowLoops
from open_mythos.nn.loop.recurrent import check_loops
from open_mythos.ops.backend import traced


# How often the block runs: one number for all rows, or one each.
Depths = int | Sequence[int] | Tensor | NDArray[np.integer[Any]]


class Room(Protocol):
    """What the door asks of a network's config."""

    vocab_size: int
    max_seq_len: int


INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_ids(ids: Tensor, cfg: Room) -> Tensor:
    """The ids as int64; refuse what is no batch of tokens of this vocabulary.

    Values are read on the host for CPU tensors only: on a device that would stall every step,
    and the embedding's own device-side assertion covers it there.

    Raises:
        InputError: Naming the shape, dtype or value.
    """
    if not isinstance(ids, Tensor):
        raise InputError(
            f"ids must be an integer tensor (batch, sequence), not {type(ids).__name__}"
        )
    if ids.dim() != 2:
        raise InputError(
            f"ids have shape {tuple(ids.shape)}; they must be (batch, sequence): "
            "add the batch axis with ids.unsqueeze(0)"
        )
    if ids.dtype not in INTEGERS:
        raise InputError(f"ids are {ids.dtype}; token ids are integers: use ids.long()")
    if ids.numel() == 0:
        raise InputError(
            f"ids are empty (shape {tuple(ids.shape)}); give at least one token per row"
        )
    if ids.device.type == "cpu" and not traced():
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= cfg.vocab_size:
            wrong = low if low < 0 else high
            raise InputError(
                f"token id {wrong} is outside 0 .. {cfg.vocab_size - 1}; the tokenizer and the "
                f"model's vocab_size ({cfg.vocab_size}) do not match"
            )
    return ids.long()


def check_counts(*, logits_to_keep: int | None, backprop_loops: int | None) -> None:
    """Refuse counts that are no ints, or too small.

    Raises:
        InputError: Naming the argument.
    """
    named = {"logits_to_keep": (logits_to_keep, 0), "backprop_loops": (backprop_loops, 1)}
    for name, (value, least) in named.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(
                f"{name} is {value!r}; it must be an int of at least {least}, or None for all"
            )


def per_row(n_loops: object) -> TypeGuard[Sequence[int] | Tensor | NDArray[np.integer[Any]]]:
    """Whether these are numbers of loops, one per row, rather than one for all."""
    if isinstance(n_loops, (Tensor, np.ndarray)):
        return n_loops.ndim > 0
    return isinstance(n_loops, Sequence) and not isinstance(n_loops, str)


def check_one_depth(n_loops: object) -> None:
    """Refuse one number of loops per row where tokens are generated.

    Raises:
        InputError: Saying why.
    """
    if per_row(n_loops):
        raise InputError(
            "n_loops has one number per row, but generation keeps a cache, which holds equally "
            "many loops of every row; give one int, or generate row by row"
        )


def check_depths(
    n_loops: Depths | None, min_loops: int | None, ids: Tensor, cfg: MythosConfig, *, cached: bool
) -> int | RowLoops:
    """How often the rows are looped: one number for all, or one each.

    Args:
        n_loops: What the caller gave; None is the config's max_loop_iters.
        min_loops: Loops to take part in at least, beside one number per row.
        ids: (B, S).
        cfg: The model's config.
        cached: Whether there is a cache, which holds equally many loops of every row.

    Raises:
        InputError: Naming the value, and the row it stands in.
    """
    if not per_row(n_loops):
        if min_loops is not None:
            raise InputError(
                f"min_loops is {min_loops}, but n_loops is one number, which every rank runs; "
                "leave min_loops out, or give n_loops one number per row"
            )
        one: Any = n_loops
        return check_loops(one, cfg.max_loop_iters)
    if cached:
        raise InputError(
            "n_loops has one number per row, but a cache holds equally many loops of every row; "
            "leave the cache out, or give one int"
        )
    if isinstance(n_loops, Tensor) and n_loops.device.type != "cpu":
        raise InputError(
            f"n_loops is on {n_loops.device}; the shapes of a pass follow from it, so that it must "
            "be on the host: use a list of ints"
        )
    rows = n_loops.tolist() if isinstance(n_loops, (Tensor, np.ndarray)) else list(n_loops)
    if len(rows) != ids.shape[0]:
        raise InputError(
            f"n_loops has {len(rows)} numbers, the input {ids.shape[0]} rows; it must have one per "
            "row, or be one int for all"
        )
    named = [(f"n_loops, row {row},", value) for row, value in enumerate(rows)]
    for name, value in named if min_loops is None else [*named, ("min_loops", min_loops)]:
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
            raise InputError(f"{name} is {value!r}; it must be an int of at least 1")
    return RowLoops(tuple(int(value) for value in rows), int(min_loops or 0))


def check_reads(
    read_loops: Sequence[int], n_loops: int | RowLoops, *, recorded: bool
) -> tuple[int, ...]:
    """The loops after which the state is read out, beside the last.

    Args:
        read_loops: What the caller gave.
        n_loops: Loops that will run.
        recorded: Whether there is a record of the pass and no cache beside it.

    Raises:
        InputError: If one is not among the loops that run, or nobody could see what was read.
    """
    most = n_loops if isinstance(n_loops, int) else math.inf  # a row that ended gives its end
    for value in read_loops:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            room = "at least 1" if most == math.inf else f"1 .. {most}"
            raise InputError(f"read_loops has {value!r}; each must be an int and lie in {room}")
    if read_loops and not recorded:
        raise InputError(
            f"read_loops is {list(read_loops)}: leave the cache out, and give return_output=True, "
            "since the record holds what was read"
        )
    return tuple(read_loops)


def check_start(start_pos: int | None, past: int, *, cached: bool) -> int:
    """The index of the first new position.

    Raises:
        CacheError: If `start_pos` contradicts the cache.
        InputError: If it is not an int >= 0.
    """
    if start_pos is None:
        return past
    if isinstance(start_pos, bool) or not isinstance(start_pos, int) or start_pos < 0:
        raise InputError(f"start_pos is {start_pos!r}; it must be an int >= 0")
    if cached and start_pos != past:
        raise CacheError(
            f"start_pos is {start_pos}, but the cache holds {past} positions; leave it out and it "
            "follows the cache"
        )
    return start_pos


def check_span(start: int, length: int, cfg: Room) -> None:
    """Refuse positions past max_seq_len.

    Raises:
        InputError: Naming the limit.
    """
    if start + length > cfg.max_seq_len:
        raise InputError(
            f"the sequence reaches position {start + length}, the config's max_seq_len is "
            f"{cfg.max_seq_len}; use a shorter input, or build with a larger max_seq_len"
        )


def real_keys(
    attention_mask: Tensor | None,
    remembered: Tensor | None,
    ids: Tensor,
    past: int,
    *,
    cached: bool = False,
) -> Tensor | None:
    """Which of all keys, cached and new, are real: (B, past + T) boolean; None: all of them.

    Args:
        attention_mask: (B, T) for the new positions or (B, past + T) for all; nonzero is real.
        remembered: (B, past) from earlier calls; None: all real.
        ids: (B, T).
        past: Cached positions.
        cached: Whether more may follow; a row's first chunk may then be nothing but padding.

    Raises:
        InputError: On another shape, or a row without a real key.
    """
    batch, length = ids.shape
    if attention_mask is None:
        if remembered is None:
            return None
        return torch.cat((remembered, remembered.new_ones(batch, length)), dim=1)
    if not isinstance(attention_mask, Tensor):
        raise InputError(
            f"attention_mask must be a tensor ({batch}, {length}), not "
            f"{type(attention_mask).__name__}"
        )
    if attention_mask.dim() != 2 or attention_mask.shape[0] != batch:
        raise InputError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; with ids {tuple(ids.shape)} "
            f"it must be ({batch}, {length})" + (f" or ({batch}, {past + length})" if past else "")
        )
    valid = attention_mask.to(device=ids.device) != 0
    if valid.shape[1] == length and past:
        known = valid.new_ones(batch, past) if remembered is None else remembered
        valid = torch.cat((known, valid), dim=1)
    if valid.shape[1] != past + length:
        raise InputError(
            f"attention_mask covers {valid.shape[1]} positions; there are {length} new and "
            f"{past} cached ones: it must cover the new ones, or all"
        )
    watched = valid.device.type == "cpu" and not traced() and not cached
    if watched and not bool(valid.any(dim=1).all()):
        raise InputError(
            "attention_mask has a row of zeros; every row must have a real token: leave it out"
        )
    return valid


def check_documents(documents: Tensor | None, ids: Tensor, *, cached: bool) -> Tensor | None:
    """The document (B, S) of each position, on the device of `ids`.

    Raises:
        InputError: On another shape or dtype, or where there is a cache.
    """
    if documents is None:
        return None
    if not isinstance(documents, Tensor):
        raise InputError(f"documents must be a tensor, not {type(documents).__name__}")
    if documents.shape != ids.shape or documents.dtype not in INTEGERS:
        raise InputError(
            f"documents are {documents.dtype} of shape {tuple(documents.shape)}; they must be "
            f"integers of the ids' shape {tuple(ids.shape)}"
        )
    if cached:
        raise InputError(
            "documents were given with a cache, which does not remember whose keys it holds; "
            "leave the cache out, or make one per document"
        )
    return documents.to(ids.device)


def positions(
    position_ids: Tensor | None, valid: Tensor | None, start: int, ids: Tensor, cfg: MythosConfig
) -> Tensor:
    """Rotary positions of the new tokens: (T,), or (B, T) where rows differ.

    Padding does not count: the first real token of a row has position 0.

    Raises:
        InputError: If given ids have another shape, are no integers or leave 0 .. max_seq_len - 1.
    """
    batch, length = ids.shape
    if position_ids is None:
        if valid is None:
            return torch.arange(start, start + length, device=ids.device)
        return (valid.to(torch.int64).cumsum(dim=1) - 1).clamp(min=0)[:, -length:]
    if not isinstance(position_ids, Tensor):
        raise InputError(f"position_ids must be a tensor, not {type(position_ids).__name__}")
    if position_ids.dtype not in INTEGERS:
        raise InputError(f"position_ids are {position_ids.dtype}; they must be integers")
    if position_ids.shape not in ((length,), (1, length), (batch, length)):
        raise InputError(
            f"position_ids have shape {tuple(position_ids.shape)}; they must be ({length},) or "
            f"({batch}, {length})"
        )
    if position_ids.device.type == "cpu" and not traced():
        low, high = int(position_ids.min()), int(position_ids.max())
        if low < 0 or high >= cfg.max_seq_len:
            raise InputError(
                f"position_ids reach from {low} to {high}; positions lie in "
                f"0 .. {cfg.max_seq_len - 1}"
            )
    return position_ids.to(ids.device)
