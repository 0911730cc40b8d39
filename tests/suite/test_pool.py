"""Cells in processes: all of them run, faults stay with their cell, and a signal ends them well."""

import os
import signal
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from open_mythos.suite.cell import read_result
from open_mythos.suite.plan import Cell
from open_mythos.suite.pool import End, Pool, Workers, cores, without_ctrl_c
from open_mythos.suite.problems import Problem
from open_mythos.train.checkpoints import newest_checkpoint
from open_mythos.train.sinks import read_metrics
from tests.suite.conftest import plan_of


@dataclass
class Notes:
    """A board that remembers, and calls the house at the first step of a cell."""

    at_step: int = 0
    said: list[tuple[str, str]] = field(default_factory=list)
    most: int = 0

    def start(self, cell: Cell) -> None:
        self.said.append(("start", cell.name))
        self.most = max(self.most, self.open())

    def step(self, cell: Cell, done: int) -> None:
        if self.at_step and done == self.at_step:
            os.kill(os.getpid(), signal.SIGINT)

    def end(self, cell: Cell, end: End, why: str) -> None:
        self.said.append(("end", cell.name))

    def open(self) -> int:
        return sum(1 if what == "start" else -1 for what, _ in self.said)


@pytest.mark.slow
def test_cells_run_so_many_at_once_and_a_fault_stays_with_its_cell(
    free: Problem, out: Path
) -> None:
    cells = list(plan_of(free, seeds=3).cells)
    cells[1] = replace(cells[1], loops=(0,))  # no number of loops: its map cannot be made
    board = Notes()
    pool = Pool(Workers(out=out, jobs=2), board)
    pool.run(cells)
    assert [pool.ends[one.name] for one in cells] == ["finished", "failed", "finished"]
    assert "n_loops is 0" in pool.whys[cells[1].name]
    assert [read_result(one, out) is not None for one in cells] == [True, False, True]
    assert board.most == 2
    assert board.open() == 0


@pytest.mark.slow
def test_ctrl_c_saves_what_runs_starts_no_other_and_the_next_call_goes_on(
    free: Problem, out: Path
) -> None:
    assert threading.current_thread() is threading.main_thread()
    long = replace(free, recipe=replace(free.recipe, steps=100_000))
    cells = plan_of(long, seeds=2).cells
    pool = Pool(Workers(out=out, jobs=1), Notes(at_step=3))
    pool.run(cells)
    assert pool.ends == {cells[0].name: "stopped", cells[1].name: "waiting"}
    saved = newest_checkpoint(out / cells[0].place)
    done = int(saved.name.partition("_")[2])
    assert done >= 3
    assert not (out / cells[1].place).exists()
    # The same command goes on from there; it is stopped once more, as nobody has all day.
    again = Pool(Workers(out=out, jobs=1), Notes(at_step=done + 2))
    again.run(cells)
    steps = [m["step"] for m in read_metrics(out / cells[0].place / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= done + 2


def test_what_is_started_unseen_by_ctrl_c_leaves_the_parent_as_it_was() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with without_ctrl_c():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_cores_are_those_that_this_process_may_use() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
