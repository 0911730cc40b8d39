"""The options of `open-mythos doctor`, whose work is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from open_mythos.cli.options import Checkpoint, Device, OneTask


def doctor(
    checkpoint: Checkpoint,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Text file to examine on; default: what the run held out.", show_default=False
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Named recipe whose held-out data to take.", show_default=False),
    ] = None,
    loops: Annotated[
        int | None,
        typer.Option(min=1, help="The trained depth; default: the recipe's.", show_default=False),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write findings and measurements.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a page, FILE.html.", show_default=False)
    ] = None,
    task: OneTask = None,
    device: Device = "auto",
) -> None:
    """Say what is wrong with a trained loop; exit code 1 if there is a fault."""
    from open_mythos.cli.doctor import run

    code = run(
        checkpoint=checkpoint,
        data=data,
        recipe=recipe,
        loops=loops,
        json_file=json_file,
        out=out,
        task=task,
        device=device,
    )
    raise typer.Exit(code)
