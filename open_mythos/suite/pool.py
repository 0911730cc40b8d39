"""Cells in processes of their own, so many at once; one Ctrl-C ends all of them cleanly."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal, Protocol

import torch

from open_mythos.errors import MythosError
from open_mythos.suite.cell import run_cell
from open_mythos.suite.plan import Cell
from open_mythos.train.interrupt import StopRequest
from open_mythos.train.trainer import Status


# Seconds between two looks at whether the user wants to stop.
LOOK = 0.2
End = Status | Literal["failed", "waiting"]
# What a process says: steps done, how it ended, or why it did not.
Message = tuple[Literal["step"], int] | tuple[Literal["end"], Status] | tuple[Literal["error"], str]


class Board(Protocol):
    """Shows how cells get on."""

    def start(self, cell: Cell) -> None:
        """A cell's process starts."""
        ...

    def step(self, cell: Cell, done: int) -> None:
        """So many steps are done."""
        ...

    def end(self, cell: Cell, end: End, why: str) -> None:
        """The process is over."""
        ...


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How cells are run.

    Attributes:
        out: The suite's folder.
        jobs: Processes at once.
        threads: CPU threads of each.
        resume: Go on with what is in the folders, or start over.
    """

    out: Path
    jobs: int
    threads: int = 1
    resume: bool = True


@dataclass
class Running:
    """A cell whose process is under way."""

    cell: Cell
    process: BaseProcess
    ear: Connection
    end: End = "failed"
    why: str = "the process died"


@dataclass
class Pool:
    """The cells of one call, and how each ended.

    Attributes:
        ends: Cell's name -> how it ended.
        whys: Cell's name -> why it failed.
    """

    workers: Workers
    board: Board
    ends: dict[str, End] = field(default_factory=dict)
    whys: dict[str, str] = field(default_factory=dict)

    def run(self, cells: Sequence[Cell]) -> None:
        """Run all, in order. After SIGINT or SIGTERM those that run are saved, no other starts."""
        self.ends = {cell.name: "waiting" for cell in cells}
        waiting, running = list(cells), list[Running]()
        try:
            with StopRequest() as stop:
                told = False
                while running or (waiting and stop.name is None):
                    while waiting and stop.name is None and len(running) < self.workers.jobs:
                        running.append(self._start(waiting.pop(0)))
                    if stop.name is not None and not told:
                        told = True
                        for one in running:
                            one.process.terminate()
                    running = self._listen(running)
        finally:
            for one in running:  # only after a second Ctrl-C, or a fault of ours
                one.process.kill()
                one.process.join()

    def _start(self, cell: Cell) -> Running:
        ear, mouth = get_context("spawn").Pipe(duplex=False)
        words = (cell, self.workers, mouth)
        process = get_context("spawn").Process(target=work, args=words, name=cell.name)
        with without_ctrl_c():
            process.start()
        mouth.close()
        self.board.start(cell)
        return Running(cell, process, ear)

    def _listen(self, running: list[Running]) -> list[Running]:
        """Take in what was said; return those that still run."""
        ready = wait([one.ear for one in running], timeout=LOOK)
        over = [one for one in running if one.ear in ready and not self._hear(one)]
        for one in over:
            one.process.join()
            if one.process.exitcode == -signal.SIGTERM:
                one.end = "stopped"  # before or after its training, when nothing was to be saved
            self.ends[one.cell.name] = one.end
            if one.end == "failed":
                self.whys[one.cell.name] = one.why
            self.board.end(one.cell, one.end, one.why if one.end == "failed" else "")
        return [one for one in running if one not in over]

    def _hear(self, one: Running) -> bool:
        """One message; False when there will be no more."""
        try:
            message: Message = one.ear.recv()
        except EOFError:
            return False
        if message[0] == "step":
            self.board.step(one.cell, message[1])
        elif message[0] == "end":
            one.end = message[1]
        else:
            one.why = message[1]
        return True


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """What is started in here never sees a terminal's Ctrl-C: its parent tells it to stop."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def work(cell: Cell, workers: Workers, mouth: Connection) -> None:
    """What a process does: one cell, telling how it gets on."""
    torch.set_num_threads(workers.threads)
    try:
        end = run_cell(
            cell, workers.out, lambda done: mouth.send(("step", done)), resume=workers.resume
        )
        mouth.send(("end", end))
    except (MythosError, OSError, RuntimeError) as error:
        mouth.send(("error", f"{type(error).__name__}: {error}"))
    finally:
        mouth.close()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
