"""Weights, gradients and optimizer state divided over ranks (FSDP2), the loop as one unit."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.block import TransformerBlock
from open_mythos.parallel.experts import ExpertStacks
from open_mythos.parallel.mesh import Mesh


def shard(model: OpenMythos, mesh: Mesh, dtype: torch.dtype | None = None) -> None:
    """Divide a network's storage over the mesh, in place; its parameters become DTensors.

    Units, each gathered and reduced as one: every dense block; the looped block with all that
    belongs to the loop, so that a pass costs one gather and one reduction whatever the number of
    loops; and the rest (embedding, head, last norm). Only dense blocks are let go between forward
    and backward: next to nothing lies between the loop's last turn and its way back.

    Experts that were dealt out are a unit for each of their ranks, divided over those that hold
    the same ones.

    Args:
        model: In float32; on any device, each unit is moved to the mesh's before it is divided.
        mesh: Its `shards` and `stacks` are used.
        dtype: What gathered weights, activations and gradients are in; gradients are summed in
            float32 all the same. None computes in the parameters' own dtype.
    """
    # Dense blocks return their keys as views too; nobody writes to what they return.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    policy = MixedPrecisionPolicy(
        param_dtype=dtype,
        reduce_dtype=None if dtype is None else torch.float32,
        cast_forward_inputs=False,  # rotary tables stay in float32; the rest is in `dtype` already
    )
    for stacks in _stacks(model):
        fully_shard(stacks, mesh=mesh.stacks, mp_policy=policy, reshard_after_forward=False)
        _average_over_readers(_unit(stacks), mesh)
    for block in _dense_blocks(model):
        fully_shard(block, mesh=mesh.shards, mp_policy=policy)
        register_fsdp_forward_method(block, "run")
    for unit in (model.recurrent, model):
        fully_shard(unit, mesh=mesh.shards, mp_policy=policy, reshard_after_forward=False)
    register_fsdp_forward_method(model.recurrent, "run")


@contextmanager
def gathered(model: OpenMythos) -> Iterator[None]:
    """Hold every weight whole while the block runs: any method of the network may be called then.

    All ranks enter and leave together; in between nothing is gathered or let go, so what one of
    them runs alone makes no other wait. Trained weights must not change inside.
    """
    for unit in _units(model):
        unit.unshard()
    for block in _dense_blocks(model):
        _unit(block).set_reshard_after_forward(False)
    try:
        yield
    finally:
        for block in _dense_blocks(model):
            _unit(block).set_reshard_after_forward(True)
        release(model)


def release(model: nn.Module) -> None:
    """Let go of every gathered weight: what a pass without a way back has left."""
    for unit in _units(model):
        unit.reshard()


def _dense_blocks(model: OpenMythos) -> list[TransformerBlock]:
    blocks = [*model.prelude, *model.coda]
    return [block for block in blocks if isinstance(block, TransformerBlock)]


def _stacks(model: OpenMythos) -> list[ExpertStacks]:
    return [module for module in model.modules() if isinstance(module, ExpertStacks)]


def _average_over_readers(unit: FSDPModule, mesh: Mesh) -> None:
    """Divide summed gradients by the ranks that read rows, as those of everything else are.

    A rank's experts have seen the tokens of its whole expert group already.
    """
    unit.set_gradient_divide_factor(mesh.data.size)
    if mesh.stacks.device_type == "cpu" and mesh.copies.size > 1:
        # gloo sums only; a group of one, which sums nothing, would divide twice then.
        unit.set_force_sum_reduction_for_comms(True)


def _unit(module: nn.Module) -> FSDPModule:
    assert isinstance(module, FSDPModule)
    return module


def _units(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]
