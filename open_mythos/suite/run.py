"""Train, map, judge, report: the depth suite from start to end, resumable at any point."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from open_mythos.checkpoint.files import write_json, write_text
from open_mythos.report.figures import save_figures
from open_mythos.suite.beyond import beyond
from open_mythos.suite.board import ConsoleBoard
from open_mythos.suite.cell import CellResult, read_result
from open_mythos.suite.plan import Cell, Plan
from open_mythos.suite.pool import Pool, Workers, cores
from open_mythos.suite.story import figures, findings, report
from open_mythos.suite.summary import summarise
from open_mythos.suite.verdict import judge
from open_mythos.train.build import find_device
from open_mythos.train.environment import environment


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """How the suite ended.

    Attributes:
        status: "finished"; "failed", if some cells have no result, though there is a report of the
            others; "stopped" by the user, then there is none.
        report: The page.
        findings: The numbers in short.
        failed: Name of a cell without a result -> why.
        seconds: Wall time of this call.
    """

    status: Literal["finished", "failed", "stopped"]
    report: Path | None
    findings: dict[str, Any]
    failed: dict[str, str]
    seconds: float


def run_suite(
    out: Path, plan: Plan, *, jobs: int = 0, resume: bool = True, console: Console | None = None
) -> SuiteResult:
    """Run what is not done yet; write suite.json, figures and report.html.

    Args:
        out: Folder of the suite; each cell has a run folder in it.
        plan: What to train and to ask.
        jobs: Processes at once; 0: on a CPU one for each core, on an accelerator one.
        resume: Go on with what is in `out`, or start over.
        console: Where progress goes.

    Raises:
        ConfigError: If the device is not here.
    """
    began = time.perf_counter()
    console = console or Console(stderr=True)
    device = find_device(plan.cells[0].recipe.device)
    here = cores()
    jobs = jobs or (here if device.type == "cpu" else 1)
    workers = Workers(out=out, jobs=jobs, threads=max(1, here // jobs), resume=resume)
    with ConsoleBoard(plan, console) as board:
        pool = Pool(workers, board)
        pool.run(plan.cells)
    if set(pool.ends.values()) & {"stopped", "waiting"}:
        return SuiteResult(
            status="stopped",
            report=None,
            findings={},
            failed=pool.whys,
            seconds=time.perf_counter() - began,
        )
    done = [(cell, found) for cell in plan.cells if (found := read_result(cell, out)) is not None]
    failed = {
        cell.name: pool.whys.get(cell.name, pool.ends[cell.name])
        for cell in plan.cells
        if cell.name not in {one.name for one, _ in done}
    }
    told, page = written(out, plan, done, failed) if done else ({}, None)
    return SuiteResult(
        status="failed" if failed else "finished",
        report=page,
        findings=told,
        failed=failed,
        seconds=time.perf_counter() - began,
    )


def written(
    out: Path, plan: Plan, done: list[tuple[Cell, CellResult]], failed: dict[str, str]
) -> tuple[dict[str, Any], Path]:
    """The findings, and the page that shows them; suite.json and the figures beside it."""
    summaries = summarise(done)
    drawn = figures(plan, summaries)
    save_figures(drawn, out / "figures")
    found = findings(plan, summaries)
    device = find_device(plan.cells[0].recipe.device)
    write_json(
        out / "suite.json",
        {
            "size": plan.size,
            "findings": found,
            "cells": [entry(cell, result) for cell, result in done],
            "failed": failed,
            "environment": environment(device, 0),
        },
    )
    page = out / "report.html"
    write_text(page, report(plan, summaries, drawn, failed))
    return found, page


def entry(cell: Cell, result: CellResult) -> dict[str, Any]:
    """What suite.json says of a cell."""
    return {
        "task": cell.problem,
        "design": cell.design,
        "seed": cell.seed,
        "verdict": judge(result.map, cell.trained).to_json(),
        "beyond": beyond(result.map, cell.trained).to_json(),
        "trained": {"difficulty": cell.trained.difficulty, "loops": cell.trained.loops},
        **result.to_json(),
    }
