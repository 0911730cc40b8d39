"""The options of `open-mythos calibrate`, importing its work when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from open_mythos.cli.options import Checkpoint, Device, HeldOutText, JsonFile, OneTask


def calibrate(
    checkpoint: Checkpoint,
    data: HeldOutText = None,
    budget: Annotated[
        str, typer.Option(help="Loss of quality allowed, relative to the full depth.")
    ] = "0.5%",
    exits: Annotated[str, typer.Option(help="all, or names such as kl,latent.")] = "all",
    n_loops: Annotated[
        int | None,
        typer.Option("--n-loops", "--loops", min=1, help="The full depth; default: the run's."),
    ] = None,
    batches: Annotated[
        int, typer.Option(min=1, help="Batches to fit on, and as many to verify on.")
    ] = 8,
    json_file: JsonFile = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Report (.html) or picture (.png, .svg, .pdf).", show_default=False),
    ] = None,
    task: OneTask = None,
    device: Device = "auto",
) -> None:
    """Fit where positions may leave the loop to a quality budget, and store it with the model."""
    from open_mythos.cli.calibrate import run

    code = run(
        checkpoint=checkpoint,
        data=data,
        budget=budget,
        exits=exits,
        n_loops=n_loops,
        batches=batches,
        json_file=json_file,
        out=out,
        task=task,
        device=device,
    )
    raise typer.Exit(code)
