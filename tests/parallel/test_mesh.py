"""Which ranks lie on which axis, against the coordinates counted by hand."""

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist

from open_mythos.errors import ConfigError
from open_mythos.parallel.degrees import Degrees
from open_mythos.parallel.mesh import open_mesh
from tests.parallel.workers import Workers


CASES = [
    {},
    {"shard": 2},
    {"shard": 4, "expert": 2},
    {"shard": 2, "tensor": 2, "expert": 2},
    {"expert": 4},
    {"tensor": 4},
]


def _describe(cases: list[dict[str, int]]) -> list[Any]:
    said = []
    for degrees in cases:
        mesh = open_mesh(Degrees(**degrees), torch.device("cpu"))
        axes = (mesh.data, mesh.replica, mesh.tensor, mesh.expert, mesh.copies)
        assert copy.deepcopy(mesh.data) is mesh.data
        sums = [axis.sum(torch.tensor([dist.get_rank() + 1.0])).item() for axis in axes]
        sizes = mesh.shards.ndim, mesh.shards.size(-1), mesh.stacks.size(), mesh.world
        said.append(([(a.rank, a.size) for a in axes], sums, sizes))
    return said


@pytest.mark.slow
def test_every_axis_joins_the_ranks_that_differ_in_it_alone(four: Workers) -> None:
    answers = four(_describe, CASES)
    for index, case in enumerate(CASES):
        full = Degrees(**case).over(4)
        tensor, expert = full.tensor, full.expert
        places = []
        for rank in range(4):
            reader = rank // tensor
            places.append(
                {
                    "data": (reader, rank % tensor),
                    "replica": (reader // full.shard, (reader % full.shard, rank % tensor)),
                    "tensor": (rank % tensor, reader),
                    "expert": (reader % expert, (reader // expert, rank % tensor)),
                    "copies": (reader // expert, (reader % expert, rank % tensor)),
                }
            )
        for rank, answer in enumerate(answers):
            axes, sums, (ndim, shard, stacks, world) = answer[index]
            for name, (place, size), total in zip(places[rank], axes, sums, strict=True):
                mine = places[rank][name]
                beside = [r for r in range(4) if places[r][name][1] == mine[1]]
                assert (place, size) == (mine[0], len(beside))
                assert total == sum(r + 1 for r in beside)
            assert (ndim, shard) == (1 if full.data == 1 else 2, full.shard)
            assert (stacks, world) == (full.readers // expert, 4)


def _refused() -> str:
    try:
        open_mesh(Degrees(shard=3), torch.device("cpu"))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_a_mesh_of_another_size_is_refused_on_every_rank(two: Workers) -> None:
    assert all("of the 2 ranks" in words for words in two(_refused))
