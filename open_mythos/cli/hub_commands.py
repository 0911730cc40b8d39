"""The options of `open-mythos export`; the work is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from open_mythos.cli.options import Checkpoint, Loops


def export(
    checkpoint: Checkpoint,
    folder: Annotated[Path, typer.Argument(help="Where to.", show_default=False)],
    loops: Loops = None,
    name: Annotated[str, typer.Option(help="What the model card calls it.")] = "",
    data: Annotated[str, typer.Option(help="What it was trained on, for the card.")] = "",
    licence: Annotated[str, typer.Option(help="Of the weights, e.g. apache-2.0.")] = "",
    code: Annotated[
        bool,
        typer.Option(
            "--code/--no-code", help="Whether Python files go with it, to load without open-mythos."
        ),
    ] = True,
) -> None:
    """Write a folder for transformers, pipelines and the hub."""
    from open_mythos.cli.export import run

    run(
        checkpoint=checkpoint,
        folder=folder,
        n_loops=loops,
        said={"name": name, "data": data, "licence": licence},
        code=code,
    )
