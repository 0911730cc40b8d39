"""Prefill, step, stop: tokens one after the other from a cached model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.generate.sampling import Sampling, pick
from open_mythos.nn.cache import KVCache


class CachedModel(Protocol):
    """What decoding needs of a network."""

    cfg: MythosConfig

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache on the model's device, in its dtype."""
        ...

    def __call__(
        self,
        ids: Tensor,
        n_loops: int | None = None,
        kv_cache: KVCache | None = None,
        *,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Logits of the new positions."""
        ...


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


def stream(
    model: CachedModel,
    ids: Tensor,
    stop: Stop,
    sampling: Sampling,
    n_loops: int | None = None,
    generator: torch.Generator | None = None,
    attention_mask: Tensor | None = None,
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

    Raises:
        InputError: If the model has no room for it.
    """
    batch, length = ids.shape
    check_room(model.cfg, length, stop)
    if stop.max_new_tokens == 0:
        return
    cache = model.new_cache(batch, length + stop.max_new_tokens)
    logits = model(ids, n_loops, cache, attention_mask=attention_mask)
    last = _last_real(logits, attention_mask)
    finished = torch.zeros(batch, dtype=torch.bool, device=ids.device)
    for step in range(stop.max_new_tokens):
        token = pick(last, sampling, generator)
        if stop.eos_token_id is not None:
            token = token.masked_fill(finished, stop.eos_token_id)
            finished = finished | (token == stop.eos_token_id)
        yield token
        if step + 1 == stop.max_new_tokens or (stop.eos_token_id is not None and finished.all()):
            return
        last = model(token.unsqueeze(1), n_loops, cache)[:, -1]


def _last_real(logits: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The logits (B, V) of each row's last real position; padding may stand on either side."""
    if attention_mask is None:
        return logits[:, -1]
    position = torch.arange(logits.shape[1], device=logits.device)
    real = attention_mask.to(logits.device) != 0
    last = (real * position).argmax(dim=1)
    return logits[torch.arange(len(logits), device=logits.device), last]
