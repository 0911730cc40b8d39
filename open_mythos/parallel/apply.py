"""How a model is run, put around it in one order: divided, recomputed, compiled, spread."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.block import TransformerBlock
from open_mythos.parallel.division import Division
from open_mythos.parallel.mesh import Mesh
from open_mythos.parallel.spread import Spread


Call = Callable[..., Any]

# Graphs of one function that the compiler keeps at least; it would go on without compiling at 8. A
# turn has them with and without gradient, before and after the first halt, for the whole batch, and
# where rows differ in depth for any number of rows and for one.
GRAPHS = 24


def distribute(
    model: OpenMythos,
    mesh: Mesh,
    *,
    dtype: torch.dtype | None = None,
    compiled: bool = False,
    checkpointed: bool = False,
) -> Spread:
    """Run `model` on every rank of the mesh as one, in place; applied to once, by all ranks.

    All ranks bring the same weights. DDP averages gradients where every rank holds the network
    whole and computes in its own dtype; everywhere else FSDP2 does, over groups of one if need be.

    Args:
        model: In float32, on the mesh's kind of device or on the CPU.
        mesh: How the ranks are arranged.
        dtype: What passes are computed in; None is the parameters' own.
        compiled: As in `apply`.
        checkpointed: As in `apply`.

    Returns:
        What a training step asks of the other ranks.

    Raises:
        ConfigError: If the network cannot be divided over these ranks.
    """
    # Imported late, FSDP2 taking a second and a half: a run of one process needs none of it.
    from open_mythos.parallel.experts import divide_experts  # noqa: PLC0415 -- see above
    from open_mythos.parallel.sharding import shard  # noqa: PLC0415 -- see above
    from open_mythos.parallel.team import Team, replicate  # noqa: PLC0415 -- see above
    from open_mythos.parallel.tensors import divide_tensors  # noqa: PLC0415 -- see above

    degrees = mesh.degrees
    degrees.fit(model.cfg)
    divisions: dict[str, Division] = {}
    if degrees.tensor > 1:
        divisions |= divide_tensors(model, mesh.tensor)
    if degrees.expert > 1:
        divisions |= divide_experts(model, mesh.expert)
    apply(model, compiled=compiled, checkpointed=checkpointed)
    ddp = None
    if degrees.shard == degrees.expert == 1 and dtype is None:
        ddp = replicate(model, mesh)
    else:
        shard(model, mesh, dtype)
    return Team(model=model, mesh=mesh, divisions=divisions, ddp=ddp)


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
            number of loops: random depth costs no recompilation. Where rows differ in depth, a few
            more for a turn of any number of rows, and of one.
        checkpointed: Keep only what enters each turn of the loop and compute the turn again on
            the way back: memory per token and loop falls to the state and the readout.
        inference: Compile passes in evaluation mode too; otherwise those run as written, so that
            an evaluation at another length does not wait for a compiler.
    """
    loop = model.recurrent
    turn: Call = loop.turn
    if compiled:
        limit = torch._dynamo.config.recompile_limit
        torch._dynamo.config.recompile_limit = max(limit, GRAPHS)
        turn = _let_rows_vary(_compile(turn, inference=inference))
        for block in (*model.prelude, *model.coda):
            assert isinstance(block, TransformerBlock)
            block.run = _compile(block.run, inference=inference)  # type: ignore[method-assign]
    if checkpointed:
        turn = _recompute(turn, draws=model.cfg.dropout > 0.0)
    if compiled or checkpointed:
        vars(turn)["any_shape"] = not compiled  # else positions that halted stay in the batch
        loop.turn = turn  # type: ignore[method-assign]
    return model


def _compile(call: Call, *, inference: bool) -> Call:
    fast, owner = torch.compile(call), call.__self__  # type: ignore[attr-defined]
    length = None

    @wraps(call)
    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal length
        if not (inference or owner.training):
            return call(*args, **kwargs)
        x = args[0]
        length = length or x.shape[1]
        if owner.training and x.shape[1] != length:
            _keep_length(x.shape[1], (args, kwargs))
        return fast(*args, **kwargs)

    return run


def _keep_length(length: int, passed: object) -> None:
    """Tell the compiler that lengths are few in training, where it would make one graph for any.

    A graph each is the faster, and torch 2.11 cannot make the other: it stops at `_TurnQkv` in
    bfloat16 where the number of positions is a symbol.
    """
    for tensor in _tensors(passed):
        for dim, size in enumerate(tensor.shape):
            if size == length:
                torch._dynamo.mark_static(tensor, dim)


def _let_rows_vary(turn: Call) -> Call:
    """Tell the compiler that the number of rows varies, where it does: one graph serves all then.

    It would find out by itself, after a graph for the first number it sees.
    """

    @wraps(turn)
    def run(*args: Any, **kwargs: Any) -> Any:
        h, e, readout, tick, context, _, frozen, active = args
        if isinstance(tick.last, Tensor) and tick.last.dim() and len(h) > 1:  # told per row
            of_rows = (h, e, readout, tick.last, context, frozen, active)
            for tensor in _tensors((*of_rows, kwargs["valid"], kwargs["shared"])):
                if tensor.dim() > 1 and len(tensor) == len(h):
                    torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return turn(*args, **kwargs)

    return run


def _tensors(part: object) -> Iterator[Tensor]:
    """Every tensor in nested records, dicts and sequences."""
    if isinstance(part, Tensor):
        yield part
    elif is_dataclass(part):
        yield from _tensors([getattr(part, field.name) for field in fields(part)])
    elif isinstance(part, (dict, list, tuple)):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _tensors(inner)


def _recompute(call: Call, *, draws: bool) -> Call:
    @wraps(call)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return call(*args, **kwargs)
        return checkpoint(call, *args, use_reentrant=False, preserve_rng_state=draws, **kwargs)

    return run
