"""The door: what a forward pass is given, checked once and made explicit."""

import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CacheError, InputError
from open_mythos.ops.backend import traced


INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_ids(ids: Tensor, cfg: MythosConfig) -> Tensor:
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


def check_span(start: int, length: int, cfg: MythosConfig) -> None:
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
