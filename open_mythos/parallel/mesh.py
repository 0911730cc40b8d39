"""Mesh: the ranks of a run arranged by their degrees, with a process group for each direction."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from open_mythos.parallel.degrees import Degrees


@dataclass(frozen=True)
class Axis:
    """One direction of a mesh, seen from this rank: the ranks that differ in nothing else.

    Attributes:
        name: What is divided along it.
        rank: This rank's place on it.
        size: Ranks on it.
        group: Their process group.
    """

    name: str
    rank: int
    size: int
    group: dist.ProcessGroup

    def __deepcopy__(self, memo: dict[int, Any]) -> "Axis":
        """Itself: a copy of a network runs over the same ranks."""
        return self

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over the axis, in place; queued on the device, not waited for."""
        if self.size > 1:
            dist.all_reduce(numbers, group=self.group)
        return numbers


@dataclass(frozen=True)
class Mesh:
    """Every arrangement of the ranks that a run needs.

    Tensor ranks are neighbours, since they talk in every layer; then the ranks of one expert
    group, which talk in every loop; then those of one shard group.

    Attributes:
        degrees: Filled in.
        data: The ranks that read rows, of one place on the tensor axis.
        replica: The ranks that hold the same part of another replica.
        tensor: The ranks that share this rank's rows.
        expert: The ranks that hold the other experts.
        copies: The ranks that hold the same experts.
        shards: (replica, shard) for `fully_shard`, or (shard,) where there is one replica.
        stacks: (copies,), over which the experts' own storage is divided.
    """

    degrees: Degrees
    data: Axis
    replica: Axis
    tensor: Axis
    expert: Axis
    copies: Axis
    shards: DeviceMesh
    stacks: DeviceMesh

    @property
    def world(self) -> int:
        """Ranks in all."""
        return self.data.size * self.tensor.size


def open_mesh(degrees: Degrees, device: torch.device) -> Mesh:
    """Arrange the ranks of the running process group; every rank calls this at the same point.

    Raises:
        ConfigError: If the degrees do not fit the number of ranks.
    """
    world = dist.get_world_size()
    full = degrees.over(world)
    ranks, kind = torch.arange(world), device.type
    shape = (full.data, full.shard, full.tensor)
    dense = DeviceMesh(kind, ranks.view(shape), mesh_dim_names=("replica", "shard", "tensor"))
    readers = DeviceMesh(
        kind, ranks.view(full.readers, full.tensor), mesh_dim_names=("read", "same")
    )
    routed = ranks.view(-1, full.expert, full.tensor)
    experts = DeviceMesh(kind, routed, mesh_dim_names=("copies", "expert", "same"))
    return Mesh(
        degrees=full,
        data=_axis(readers, "read"),
        replica=_axis(dense, "replica"),
        tensor=_axis(dense, "tensor"),
        expert=_axis(experts, "expert"),
        copies=_axis(experts, "copies"),
        shards=dense["replica", "shard"] if full.data > 1 else dense["shard"],
        stacks=experts["copies"],
    )


def _axis(mesh: DeviceMesh, name: str) -> Axis:
    group = mesh.get_group(name)
    return Axis(name, mesh.get_local_rank(name), dist.get_world_size(group), group)
