"""Rank processes that stay: started once, they run one function after another, together."""

import multiprocessing as mp
import os
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


PATIENCE = 100.0  # seconds that a call may take, compilation and a busy machine included


def serve(rank: int, world: int, meeting: str, line: Connection) -> None:
    """One rank: run what comes down the line until None does."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    where = f"file://{meeting}"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=world)
    while (job := line.recv()) is not None:
        function, args = job
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                line.send((True, function(*args)))
        except Exception:  # noqa: BLE001 -- told to whoever asked
            line.send((False, traceback.format_exc()))
    dist.destroy_process_group()


class Workers:
    """`world` gloo processes on this machine."""

    def __init__(self, world: int, folder: Path) -> None:
        self.world, self.folder, self.starts = world, folder, 0
        self.processes: list[Any] = []
        self.lines: list[Connection] = []

    def __call__(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What each rank returns from `function(*args)`, a function of a module by its name."""
        if not self.processes:
            self._start()
        for line in self.lines:
            line.send((function, args))
        answers = []
        for rank, line in enumerate(self.lines):
            if not line.poll(PATIENCE):
                self.close()
                raise TimeoutError(f"rank {rank} is silent; the others said {answers}")
            good, answer = line.recv()
            if not good:
                self.close()
                raise AssertionError(f"rank {rank}:\n{answer}")
            answers.append(answer)
        return answers

    def _start(self) -> None:
        # Ranks are forked from a process that has imported all of this once, and run nothing.
        context = mp.get_context("forkserver")
        context.set_forkserver_preload([__name__, "torch.distributed.fsdp", "tests.parallel.twin"])
        self.starts += 1
        meeting = str(self.folder / f"meeting{self.starts}")
        for rank in range(self.world):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(rank, self.world, meeting, theirs), daemon=True
            )
            process.start()
            self.processes.append(process)
            self.lines.append(ours)

    def close(self) -> None:
        """End the processes; a later call starts new ones."""
        for process in self.processes:
            process.kill()
            process.join()
        self.processes, self.lines = [], []
