"""Ranks: which process of how many this one is, and what all of them decide together."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from open_mythos.errors import ConfigError


T = TypeVar("T")

# What torchrun sets for each of its processes.
RANK, WORLD, LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"
# A rank that waits so long for the others gives up with an error instead of hanging for ever. A
# checkpoint or an evaluation that rank 0 makes alone must fit in it.
PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """This process among those of one run; the default is a run of one process.

    Attributes:
        rank: Number of this process, from 0.
        world: Number of processes.
        local_rank: Number of this process among those of its machine.
        writers: A gloo group of all ranks that only checkpoints use, beside training; None for one
            process.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    writers: "dist.ProcessGroup | None" = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes records, lines and recipes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether any rank says so: the same answer on all of them, at the same point.

        A host decision, over tensors of the CPU: the accelerator is not waited for.
        """
        if self.world == 1:
            return flag
        said = torch.tensor(int(flag), dtype=torch.int64)
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        return bool(said)

    def told(self, value: T) -> T:
        """The first rank's `value`, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def first_does(self, work: Callable[[], T]) -> T:
        """What `work` gives on the first rank, which alone does it; its error is everybody's."""
        if self.world == 1:
            return work()
        done: tuple[T | None, Exception | None] = (None, None)
        if self.first:
            try:
                done = (work(), None)
            except Exception as error:  # noqa: BLE001 -- raised on every rank
                done = (None, error)
        value, failed = self.told(done)
        if failed is not None:
            raise failed
        return cast(T, value)

    def wait(self) -> None:
        """Go on when every rank has come here."""
        self.any(False)


# A run of one process.
ALONE = Ranks()


@contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """The process group that torchrun's environment describes, for as long as the block runs.

    One group serves both kinds of tensors: gloo those of the CPU, NCCL those of a GPU. A group
    that the caller has opened before is used as it is, and left open. Without torchrun's
    environment, and without a group, this is a run of one process.

    Args:
        device: "cpu" leaves the GPUs out; anything else takes them where there are any.

    Raises:
        ConfigError: If the environment names a rank without a world, or a GPU that is not there.
    """
    if dist.is_available() and dist.is_initialized():
        here = int(os.environ.get(LOCAL_RANK, "0"))
        yield Ranks(dist.get_rank(), dist.get_world_size(), here, dist.new_group(backend="gloo"))
        return
    found = from_environment(os.environ)
    if found.world == 1:
        yield found
        return
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        if found.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"{LOCAL_RANK} is {found.local_rank}, this machine has {torch.cuda.device_count()} "
                "GPUs; start at most one process per GPU (torchrun --nproc-per-node), or set "
                "device=cpu"
            )
        torch.cuda.set_device(found.local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
    try:
        yield replace(found, writers=dist.new_group(backend="gloo"))
    finally:
        dist.destroy_process_group()


def from_environment(environment: "os._Environ[str] | dict[str, str]") -> Ranks:
    """The place that torchrun gave this process; one of one where it gave none.

    Raises:
        ConfigError: If the variables are there in part only, or are no numbers.
    """
    named = {name: environment.get(name) for name in (RANK, WORLD, LOCAL_RANK)}
    if named[WORLD] is None:
        return Ranks()
    try:
        rank, world, local = (int(str(named[name])) for name in (RANK, WORLD, LOCAL_RANK))
    except ValueError:
        raise ConfigError(
            f"{RANK}, {WORLD} and {LOCAL_RANK} are {', '.join(map(repr, named.values()))}; all "
            "three are numbers that torchrun sets: start the run with it, or unset them"
        ) from None
    return Ranks(rank, world, local)
