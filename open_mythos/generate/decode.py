"""Prefill, step, stop: tokens one after the other from a cached model."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.generate.sampling import Sampling, pick
from open_mythos.generate.static import (
    Decoder,
    StaticModel,
    borrowed_decoder,
    capacity_bucket,
    rows_bucket,
)
from open_mythos.nn.watched import patched


@dataclass(frozen=True)
class Stop:
    """When to stop.

    Attributes:
        max_new_tokens: Tokens to add at most.
        eos_token_id: Token after which a row is finished; None: never.
    """

    max_new_tokens: int
    eos_token_id: int | None = None


def check_room(cfg: MythosConfig, prompt: int, stop: Stop) -> None:
    """Refuse a generation that the model has no room for.

    Raises:
        InputError: Naming the limit that is passed.
    """
    new = stop.max_new_tokens
    if isinstance(new, bool) or not isinstance(new, int) or new < 0:
        raise InputError(f"max_new_tokens is {new!r}; it must be an int >= 0")
    if new > cfg.max_output_tokens:
        raise InputError(
            f"max_new_tokens is {new}, the config's max_output_tokens {cfg.max_output_tokens}; "
            "ask for fewer, or raise the field"
        )
    if prompt + new > cfg.max_seq_len:
        raise InputError(
            f"{prompt} prompt tokens and {new} new ones make {prompt + new}; the config's "
            f"max_seq_len is {cfg.max_seq_len}; shorten either, or build with a larger one"
        )
    eos = stop.eos_token_id
    if eos is not None and (not isinstance(eos, int) or not 0 <= eos < cfg.vocab_size):
        raise InputError(
            f"eos_token_id is {eos!r}; it must be an int, and lie in 0 .. {cfg.vocab_size - 1}"
        )


def stream(  # noqa: PLR0913 -- the arguments of generation
    model: StaticModel,
    ids: Tensor,
    stop: Stop,
    sampling: Sampling,
    n_loops: int | None = None,
    generator: torch.Generator | None = None,
    attention_mask: Tensor | None = None,
    *,
    static: bool | None = None,
    exit: object = None,
) -> Iterator[Tensor]:
    """Yield the next token (B,) of every row, until all rows have stopped.

    A row that has met `eos_token_id` goes on yielding it while others are still running. The
    caller decides about gradients and training mode; `OpenMythos.generate` turns both off.

    Args:
        model: The network.
        ids: (B, S) prompts, S >= 1.
        stop: When to stop.
        sampling: How tokens are drawn.
        n_loops: Loops per token; None is the config's max_loop_iters.
        generator: Source of randomness.
        attention_mask: (B, S), 0 at padding; prompts of unequal length are padded on the left.
        static: Decode in fixed shapes, as one CUDA graph per token on a GPU; None does so on a
            GPU wherever it is right: not where hooks would miss their calls, where padding stands
            elsewhere than on the left, where other ranks have a part in every pass, or where
            positions leave the loop early.
        exit: Where they do: see `OpenMythos.forward`.

    Raises:
        InputError: If the model has no room for it.
    """
    check_room(model.cfg, ids.shape[1], stop)
    if stop.max_new_tokens == 0:
        return
    starts, left = _starts(attention_mask)
    if static and exit is not None:
        raise InputError("static decoding runs every loop of every token; leave static or exit out")
    if static is None:
        static = ids.is_cuda and left and not watched(model) and not lockstep(model)
        static = static and exit is None
    if static and not left:
        raise InputError("static decoding needs prompts that are padded on the left, or not at all")
    loops = model.cfg.max_loop_iters if n_loops is None else n_loops
    tokens = (
        _in_fixed_shapes(model, ids, stop, sampling, loops, generator, starts)
        if static
        else _one_by_one(model, ids, stop, sampling, loops, generator, attention_mask, exit)
    )
    finished = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)
    for token in tokens:
        if stop.eos_token_id is None:
            yield token
            continue
        shown = token.masked_fill(finished, stop.eos_token_id)
        finished = finished | (shown == stop.eos_token_id)
        yield shown
        if finished.all():
            return


def _one_by_one(  # noqa: PLR0913 -- the arguments of generation
    model: StaticModel,
    ids: Tensor,
    stop: Stop,
    sampling: Sampling,
    n_loops: int,
    generator: torch.Generator | None,
    attention_mask: Tensor | None,
    exit: object,
) -> Iterator[Tensor]:
    """The plain way, which defines the others: a cached pass per token, its shapes growing."""
    batch, length = ids.shape
    cache = model.new_cache(batch, length + stop.max_new_tokens)
    ends = _starts(attention_mask)[1]  # every row ends in a real token: no padding on the right
    told: dict[str, Any] = {} if exit is None else {"exit": exit}
    kept = 1 if ends else None
    logits = model(ids, n_loops, cache, attention_mask=attention_mask, logits_to_keep=kept, **told)
    last = logits[:, -1] if ends else _last_real(logits, attention_mask)
    for step in range(stop.max_new_tokens):
        token = pick(last, sampling, generator)
        yield token
        if step + 1 < stop.max_new_tokens:
            last = model(token.unsqueeze(1), n_loops, cache, **told)[:, -1]


def _in_fixed_shapes(
    model: StaticModel,
    ids: Tensor,
    stop: Stop,
    sampling: Sampling,
    n_loops: int,
    generator: torch.Generator | None,
    starts: Tensor | None,
) -> Iterator[Tensor]:
    """The same tokens from a `Decoder`: kept between calls, unless a generator ties it to one."""
    batch, length = ids.shape
    rows, padded = rows_bucket(batch), starts is not None
    room = capacity_bucket(length + stop.max_new_tokens, model.cfg.max_seq_len)
    spare = torch.arange(rows, device=ids.device).clamp(max=batch - 1)
    with ExitStack() as stack:
        if generator is None:
            decoder = stack.enter_context(
                borrowed_decoder(model, rows, room, n_loops, sampling, padded=padded)
            )
        else:
            decoder = Decoder(model, rows, room, n_loops, sampling, generator, padded=padded)
        first = decoder.prefill(ids[spare], None if starts is None else starts[spare])
        yield first[:batch]
        for _ in range(stop.max_new_tokens - 1):
            yield decoder.step()[:batch]


def watched(model: StaticModel) -> bool:
    """Whether somebody hooked or replaced a layer's forward: a replayed graph would not call it."""
    assert isinstance(model, nn.Module)
    return any(patched(module) for module in model.modules())


def lockstep(model: StaticModel) -> bool:
    """Whether several ranks run the network together: what they tell each other is not captured."""
    assert isinstance(model, nn.Module)
    return any(getattr(module, "lockstep", False) for module in model.modules())


def _starts(attention_mask: Tensor | None) -> tuple[Tensor | None, bool]:
    """The first real position of each row (None without a mask); whether padding is left only."""
    if attention_mask is None:
        return None, True
    real = attention_mask != 0
    starts = real.to(torch.int64).argmax(dim=1)
    behind = torch.arange(real.shape[1], device=real.device) >= starts.unsqueeze(1)
    return starts, bool((real == behind).all())


def _last_real(logits: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The logits (B, V) of each row's last real position; padding may stand on either side."""
    if attention_mask is None:
        return logits[:, -1]
    position = torch.arange(logits.shape[1], device=logits.device)
    real = attention_mask.to(logits.device) != 0
    last = (real * position).argmax(dim=1)
    return logits[torch.arange(len(logits), device=logits.device), last]
