"""Train, sweep, report: the demo from start to end, resumable at any point."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console

from open_mythos.checkpoint.files import write_json, write_text
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.data.windows import TokenWindows
from open_mythos.demo.measure import TaskResult, TextResult, measure_task, measure_text
from open_mythos.demo.plan import SEED_DESIGN, TASK, TEXT, Plan
from open_mythos.demo.story import findings, report
from open_mythos.errors import MissingExtraError
from open_mythos.eval.evaluators import standard_evaluators
from open_mythos.model.mythos import OpenMythos
from open_mythos.train.checkpoints import RunFolder
from open_mythos.train.console import ConsoleSink
from open_mythos.train.environment import environment
from open_mythos.train.sinks import read_metrics
from open_mythos.train.sources import Sources, build_sources
from open_mythos.train.trainer import Parts, TrainResult, train


if TYPE_CHECKING:
    from open_mythos.report.figures import Figure, Metrics


@dataclass(frozen=True)
class DemoResult:
    """How the demo ended.

    Attributes:
        status: "finished", or the status of the training that did not get to its end.
        report: The page; None if it was not reached.
        findings: The numbers in short.
        seconds: Wall time of this call.
    """

    status: str
    report: Path | None
    findings: dict[str, Any]
    seconds: float


def run_demo(
    out: Path, plan: Plan, *, resume: bool = True, console: Console | None = None
) -> DemoResult:
    """Run what is not done yet; write summary.json, results.json, figures and report.html.

    Args:
        out: Folder of the demo; one run folder for each training.
        plan: What to train and measure.
        resume: Go on with what is in `out`, or start over.
        console: Where progress goes.
    """
    began = time.perf_counter()
    console = console or Console(stderr=True)
    trained: dict[str, TrainResult] = {}
    sources: dict[str, Sources] = {}
    for name in plan.recipes:
        sources[name] = build_sources(plan.recipes[name])
        trained[name] = _train(name, plan, sources[name], out, resume, console)
        if trained[name].status in ("stopped", "diverged"):
            return DemoResult(trained[name].status, None, {}, time.perf_counter() - began)
    console.print("sweeping the loops of all three ...", highlight=False)
    text = _text(trained[TEXT], sources[TEXT], plan)
    tasks = {name: _task(trained[name], sources[name], plan) for name in (TASK, SEED_DESIGN)}
    runs = {name: read_metrics(RunFolder(out / name).metrics_file) for name in plan.recipes}
    drawn = _pictures(text, tasks, runs, plan, out, console)
    found = findings(text, tasks, plan)
    device = next(trained[TEXT].model.parameters()).device
    summary = {
        "findings": found,
        "steps": {name: result.step for name, result in trained.items()},
        "seconds_of_this_call": round(time.perf_counter() - began, 1),
        "environment": environment(device, 0),
    }
    write_json(out / "summary.json", summary)
    write_json(
        out / "results.json",
        {
            **summary,
            "text": text.to_json(),
            "tasks": {name: result.to_json() for name, result in tasks.items()},
        },
    )
    page = out / "report.html"
    write_text(page, report(text, tasks, runs, plan, drawn))
    return DemoResult("finished", page, found, time.perf_counter() - began)


def _pictures(
    text: TextResult,
    tasks: Mapping[str, TaskResult],
    runs: "Mapping[str, Metrics]",
    plan: Plan,
    out: Path,
    console: Console,
) -> "dict[str, Figure]":
    """The pictures, saved; none where matplotlib is not installed: the numbers do without."""
    try:
        from open_mythos.demo.pictures import figures  # noqa: PLC0415 -- matplotlib is an extra
        from open_mythos.report.figures import save_figures  # noqa: PLC0415 -- likewise
    except MissingExtraError as missing:
        console.print(f"no pictures: {missing}", highlight=False, markup=False)
        return {}
    drawn = figures(text, tasks, runs, plan)
    save_figures(drawn, out / "figures")
    return drawn


def _train(
    name: str, plan: Plan, sources: Sources, out: Path, resume: bool, console: Console
) -> TrainResult:
    recipe = plan.recipes[name]
    return train(
        recipe,
        out / name,
        resume="auto" if resume else "fresh",
        evaluators=standard_evaluators(recipe, sources),
        sinks=[ConsoleSink(console)],
        max_seconds=plan.seconds[name],
        parts=Parts(sources=lambda _: sources),
    )


def _text(result: TrainResult, sources: Sources, plan: Plan) -> TextResult:
    assert sources.tokenizer is not None
    windows = cast("TokenWindows", sources.evaluation)
    return measure_text(cast("OpenMythos", result.model), windows, sources.tokenizer, plan)


def _task(result: TrainResult, sources: Sources, plan: Plan) -> TaskResult:
    task = cast("PointerChase", sources.evaluation)
    return measure_task(cast("OpenMythos", result.model), task, plan)
