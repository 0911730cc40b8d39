"""Team: what a training step asks of the others when several ranks take it together."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from open_mythos.checkpoint.sharded import Piece
from open_mythos.model.mythos import OpenMythos
from open_mythos.ops.head_loss import HeadLoss, head_loss, head_loss_of_part
from open_mythos.parallel.division import canonical
from open_mythos.parallel.gradients import clip_gradients
from open_mythos.parallel.mesh import Mesh
from open_mythos.parallel.pieces import pieces_of
from open_mythos.parallel.sharding import gathered, release
from open_mythos.parallel.spread import Spread
from open_mythos.parallel.vocabulary import Words


@dataclass(kw_only=True)
class Team(Spread):
    """One rank of several.

    Attributes:
        model: The network, divided.
        mesh: The ranks.
        ddp: What runs the network where DDP averages gradients; None where FSDP2 does so.
    """

    model: OpenMythos
    mesh: Mesh
    ddp: DistributedDataParallel | None = None
    data_rank: int = field(init=False)
    data_world: int = field(init=False)

    def __post_init__(self) -> None:
        self.data_rank, self.data_world = self.mesh.data.rank, self.mesh.data.size

    def caller(self, model: nn.Module) -> Callable[..., Any]:
        """What runs a forward pass of `model`, which is this team's own."""
        return model if self.ddp is None else self.ddp

    def passing(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around one forward and backward pass.

        DDP reduces in the step's last pass alone. FSDP2 divides every pass's gradients over the
        shard group, since whole ones would take the memory that it is there to save, and meets
        the other replicas in the last.
        """
        if self.ddp is not None:
            return nullcontext() if last else self.ddp.no_sync()
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_all_reduce(last)
        return nullcontext()

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over the ranks that read rows, in place; queued on the device."""
        return self.mesh.data.sum(numbers)

    def head_loss(self, *args: Any, **kwargs: Any) -> HeadLoss:
        """`ops.head_loss.head_loss`, of the words that this rank holds and all others."""
        if self.mesh.tensor.size == 1:
            return head_loss(*args, **kwargs)
        return head_loss_of_part(Words(self.mesh.tensor), *args, **kwargs)

    def clip(self, model: nn.Module, limit: float) -> Tensor:
        """Scale the gradients to a norm of at most `limit` (0 leaves them); the norm before."""
        named = dict(model.named_parameters())
        own = [parameter for name, parameter in named.items() if self.owns(name)]
        return clip_gradients(named.values(), limit, own, over_the_world)

    def owns(self, name: str) -> bool:
        """Whether this is the first of the ranks that hold the same part of a parameter."""
        mesh, division = self.mesh, self.divisions.get(canonical(name))
        routed = division is not None and division.over == "expert"
        divided = division is not None and division.over == "tensor"
        return (routed or mesh.replica.rank == 0) and (divided or mesh.tensor.rank == 0)

    def pieces(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Piece]:
        """What this rank holds of a network and of further tensors, for a checkpoint."""
        release(model)  # an evaluation may have left weights gathered, which are not what learns
        return pieces_of(model, tensors, self.divisions)

    @property
    def independent(self) -> bool:
        """Whether one rank alone may run passes: where ranks talk in none of them."""
        return self.mesh.tensor.size == self.mesh.expert.size == 1

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[None]:  # noqa: ARG002
        """Every weight of the network gathered: for evaluation, by any of its methods."""
        if not isinstance(self.model, FSDPModule):
            yield
            return
        with gathered(self.model):
            yield


def replicate(model: OpenMythos, mesh: Mesh) -> DistributedDataParallel | None:
    """What runs `model` with its gradients averaged by DDP; None where only this rank reads rows.

    Buffers are left alone: expert loads are summed, and the router's bias follows from the sum.
    """
    model.to(torch.device(mesh.shards.device_type))
    if mesh.data.size == 1:
        return None
    known = signature(DistributedDataParallel).parameters
    newer = "forward_sync_buffers"  # torch 2.13 gave the setting this name
    left: dict[str, Any] = {newer if newer in known else "broadcast_buffers": False}
    return DistributedDataParallel(
        model, process_group=mesh.data.group, gradient_as_bucket_view=True, **left
    )


def over_the_world(number: Tensor) -> Tensor:
    """The sum over all ranks, in place."""
    dist.all_reduce(number)
    return number
