"""The options of `open-mythos doctor`, whose work is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from open_mythos.cli.options import Device, HeldOutText, JsonFile, OneTask
from open_mythos.errors import InputError


def doctor(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Folder with a trained model.", show_default=False)
    ] = None,
    data: HeldOutText = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Named recipe whose held-out data to take.", show_default=False),
    ] = None,
    loops: Annotated[
        int | None,
        typer.Option(min=1, help="The trained depth; default: the recipe's.", show_default=False),
    ] = None,
    json_file: JsonFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a page, FILE.html.", show_default=False)
    ] = None,
    task: OneTask = None,
    device: Device = "auto",
    env: Annotated[
        bool, typer.Option("--env", help="Examine this installation instead of a model.")
    ] = False,
) -> None:
    """Say what is wrong with a trained loop or an installation; exit code 1 if there is a fault."""
    if env:
        from open_mythos.cli.installation import run as examine

        raise typer.Exit(examine(json_file))
    if checkpoint is None:
        raise InputError(
            "doctor examines a trained model: name its folder, or give --env to examine this "
            "installation"
        )
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
