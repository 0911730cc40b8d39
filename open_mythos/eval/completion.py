"""Completion: what a model says after a prompt, greedily, up to words that end it."""

from collections.abc import Sequence

import torch

from open_mythos.data.tokenizer import Tokenizer, decode_known
from open_mythos.errors import InputError
from open_mythos.eval.likelihood import first_id
from open_mythos.model.mythos import OpenMythos


ROWS = 16


def completions(
    model: OpenMythos,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    stops: Sequence[str] = (),
    *,
    max_new_tokens: int = 64,
    n_loops: int | None = None,
    exit: object = None,
) -> list[str]:
    """The greedy continuation of each prompt, cut before the first of `stops` or an end of text.

    Args:
        model: The network; its mode is restored.
        tokenizer: Its tokenizer.
        prompts: Cut on the left where the model has no room for them.
        stops: What ends a continuation.
        max_new_tokens: Tokens at most; no more than the model's max_output_tokens.
        n_loops: Loops; None is the model's own number.
        exit: Where positions leave the loop early.

    Raises:
        InputError: If max_new_tokens leaves no room for a prompt.
    """
    new = min(max_new_tokens, model.cfg.max_output_tokens)
    room = model.cfg.max_seq_len - new
    if new < 1 or room < 1:
        raise InputError(
            f"max_new_tokens is {max_new_tokens}, the model has {model.cfg.max_seq_len} positions; "
            "it must leave room for a prompt, and be at least 1"
        )
    ids = [tokenizer.encode(text)[-room:] or [first_id(tokenizer)] for text in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found: dict[int, str] = {}
    for start in range(0, len(order), ROWS):
        batch = order[start : start + ROWS]
        width = max(len(ids[i]) for i in batch)
        padded = torch.zeros(len(batch), width, dtype=torch.int64)
        mask = torch.zeros(len(batch), width, dtype=torch.int64)
        for row, i in enumerate(batch):
            padded[row, width - len(ids[i]) :] = torch.tensor(ids[i])
            mask[row, width - len(ids[i]) :] = 1
        device = model.embed.weight.device
        out = model.generate(
            padded.to(device), new, n_loops, 0.0,
            eos_token_id=tokenizer.eos_id, attention_mask=mask.to(device), exit=exit,
        )  # fmt: skip
        for i, row in zip(batch, out[:, width:].tolist(), strict=True):
            found[i] = _cut(decode_known(tokenizer, _before(row, tokenizer.eos_id)), stops)
    return [found[i] for i in range(len(prompts))]


def _before(ids: list[int], end: int | None) -> list[int]:
    return ids[: ids.index(end)] if end is not None and end in ids else ids


def _cut(text: str, stops: Sequence[str]) -> str:
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text
