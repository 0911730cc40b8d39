"""Checkpointing, then compilation, put around the parts of a model that are run again and again."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.block import TransformerBlock


Call = Callable[..., Any]


def apply(
    model: OpenMythos,
    *,
    compiled: bool = False,
    checkpointed: bool = False,
    inference: bool = False,
) -> OpenMythos:
    """Change how `model` is run, not what it computes; in place, returned for convenience.

    Args:
        model: The network; applied to once.
        compiled: One graph for the dense blocks and one for a turn of the loop, whatever the
            number of loops: random depth costs no recompilation.
        checkpointed: Keep only what enters each turn of the loop and compute the turn again on
            the way back: memory per token and loop falls to the state and the readout.
        inference: Compile passes in evaluation mode too; otherwise those run as written, so that
            an evaluation at another length does not wait for a compiler.
    """
    loop = model.recurrent
    turn: Call = loop.turn
    if compiled:
        turn = _compile(turn, inference=inference)
        for block in (*model.prelude, *model.coda):
            assert isinstance(block, TransformerBlock)
            block.run = _compile(block.run, inference=inference)  # type: ignore[method-assign]
    if checkpointed:
        turn = _recompute(turn, draws=model.cfg.dropout > 0.0)
    if compiled or checkpointed:
        loop.turn = turn  # type: ignore[method-assign]
    return model


def _compile(call: Call, *, inference: bool) -> Call:
    fast, owner = torch.compile(call), call.__self__  # type: ignore[attr-defined]

    @wraps(call)
    def run(*args: Any, **kwargs: Any) -> Any:
        return (fast if inference or owner.training else call)(*args, **kwargs)

    return run


def _recompute(call: Call, *, draws: bool) -> Call:
    @wraps(call)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return call(*args, **kwargs)
        return checkpoint(call, *args, use_reentrant=False, preserve_rng_state=draws, **kwargs)

    return run
