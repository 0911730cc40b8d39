"""The options of `open-mythos depth-suite`; the work is imported when it runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def depth_suite(
    size: Annotated[
        Literal["cpu", "gpu"],
        typer.Option(help="cpu: minutes on two cores; gpu: all tasks, larger, for an accelerator."),
    ] = "cpu",
    tasks: Annotated[
        str, typer.Option(help="Tasks, comma-separated; default: the size's own.")
    ] = "",
    designs: Annotated[
        str, typer.Option(help="Designs of the loop, comma-separated; default: the size's own.")
    ] = "",
    seeds: Annotated[
        int, typer.Option(min=0, help="Seeds, from 0 on; 0: as many as the size has.")
    ] = 0,
    steps: Annotated[
        int, typer.Option(min=0, help="Steps of every training; 0: as the recipes have it.")
    ] = 0,
    jobs: Annotated[
        int, typer.Option(min=0, help="Trainings at once; 0: one per core, or one on a GPU.")
    ] = 0,
    device: Annotated[
        str, typer.Option(help="auto (the accelerator if there is one), cpu, cuda:1, ...")
    ] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path(
        "runs/depth-suite"
    ),
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Continue what is in OUT, or start over.")
    ] = True,
) -> None:
    """Train designs on tasks, ask harder ones with more loops, judge, and write a report."""
    from open_mythos.cli.depth_suite import names, run
    from open_mythos.suite.plan import make_plan

    plan = make_plan(
        size,
        tasks=names(tasks),
        designs=names(designs),
        seeds=seeds,
        steps=steps,
        device=device,
    )
    raise typer.Exit(run(plan, out=out, jobs=jobs, resume=resume))
