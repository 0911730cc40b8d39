"""The options of `open-mythos export`; the work is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from open_mythos.cli.options import Checkpoint, Loops


def export(
    checkpoint: Checkpoint,
    folder: Annotated[Path, typer.Argument(help="Where to.", show_default=False)],
    loops: Loops = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="hf|pt2|onnx",
            help="hf: for transformers; pt2, onnx: one graph with its loops fixed, no cache.",
        ),
    ] = "hf",
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
    """Write a folder for transformers and the hub, or a graph for other runtimes."""
    from open_mythos.cli.export import run

    run(
        checkpoint=checkpoint,
        folder=folder,
        n_loops=loops,
        said={"name": name, "data": data, "licence": licence},
        code=code,
        form=form,
    )
