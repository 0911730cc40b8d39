"""Ids in, ids out: what `OpenMythos.generate` does with its arguments."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from open_mythos.errors import InputError
from open_mythos.generate.continuation import Ask, Continuations
from open_mythos.generate.decode import Stop, stream
from open_mythos.generate.noise import fresh_seed
from open_mythos.generate.params import SamplingParams
from open_mythos.generate.sampling import Sampling
from open_mythos.generate.streamer import Streamer, shown
from open_mythos.model.inputs import check_ids, check_one_depth, real_keys
from open_mythos.nn.mode import evaluating


if TYPE_CHECKING:
    from open_mythos.model.mythos import OpenMythos


# What `OpenMythos.generate` says where its caller says nothing.
UNSAID = (Stop(64), Sampling(1.0, 50, 1.0, 0.0))


@dataclass(frozen=True)
class How:
    """How ids are generated, beside how tokens are drawn.

    Attributes:
        n_loops: Loops per token; None is the config's max_loop_iters.
        generator: Source of randomness; None is torch's own.
        attention_mask: (B, S), 0 at padding.
        static: Decode in fixed shapes; None does so by itself on a GPU.
        exit: Where positions leave the loop early.
        streamer: Who is shown the tokens.
    """

    n_loops: int | None = None
    generator: torch.Generator | None = None
    attention_mask: Tensor | None = None
    static: bool | None = None
    exit: object = None
    streamer: Streamer | None = None


def generated(
    model: "OpenMythos",
    ids: Tensor,
    stop: Stop,
    sampling: Sampling,
    params: SamplingParams | None,
    how: How,
) -> Tensor:
    """Prompts (B, S) with new tokens behind them: (B, S + new), or n times as many rows.

    Args:
        model: The network; it is left in its own mode.
        ids: Prompts.
        stop: When to stop.
        sampling: How tokens are drawn.
        params: Everything about one request, instead of those two.
        how: The rest.

    Raises:
        InputError: If an argument is out of range, contradicts another, or the model has no room.
    """
    checked = check_ids(ids, model.cfg)
    check_one_depth(how.n_loops)
    kept = torch.int32 if ids.dtype == torch.int32 else torch.int64
    ids, mask = checked, how.attention_mask
    real_keys(mask, None, ids, past=0)  # every prompt has a real token
    with evaluating(model):
        if params is None:
            tokens = stream(
                model, ids, stop, sampling, how.n_loops, how.generator, mask,
                static=how.static, exit=how.exit,
            )  # fmt: skip
        else:
            if (Stop(stop.max_new_tokens), sampling) != UNSAID:
                raise InputError(
                    "max_new_tokens, temperature, top_k, top_p or min_p is given beside params; "
                    "say it in params"
                )
            tokens = _as_asked(model, ids, stop.eos_token_id, params, how)
            ids = ids.repeat_interleave(params.n, dim=0)
        if how.streamer is not None:
            tokens = shown(tokens, ids, how.streamer)
        return torch.cat((ids, *(t.unsqueeze(1) for t in tokens)), dim=1).to(kept)


def _as_asked(
    model: "OpenMythos", ids: Tensor, eos: int | None, params: SamplingParams, how: How
) -> Iterator[Tensor]:
    """Tokens (B * n,), each prompt's continuations side by side; one that ended repeats its end."""
    if params.stop:
        raise InputError(
            f"params.stop is {params.stop}; texts that end a text need the tokenizer: use "
            "stream_text (open_mythos.generate.text), or stop_token_ids"
        )
    seed = fresh_seed(how.generator) if params.seed is None else params.seed
    real = torch.ones_like(ids) if how.attention_mask is None else how.attention_mask
    prompts = [row[known != 0].tolist() for row, known in zip(ids, real, strict=True)]
    asks = [
        Ask(prompt, params, seed, row * params.n + i, eos)
        for row, prompt in enumerate(prompts)
        for i in range(params.n)
    ]
    batch = Continuations(model, asks, n_loops=how.n_loops, exit=how.exit, static=how.static)
    last = [0] * len(asks)
    while batch.going:
        told = batch.step()
        last = [old if new is None else new.token for old, new in zip(last, told, strict=True)]
        yield torch.tensor(last, device=ids.device)
