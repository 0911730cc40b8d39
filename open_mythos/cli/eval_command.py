"""The options of `open-mythos eval`; the work is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from open_mythos.cli.options import AsJson, Checkpoint, Device, Quantize


def evaluate(
    checkpoint: Checkpoint,
    tasks: Annotated[
        str,
        typer.Option(
            help="Comma-separated: offline ones (mythos_plays, mythos_lines, mythos_steps, "
            "mythos_sums) or lm-eval's own; default: the offline ones."
        ),
    ] = "",
    loops: Annotated[
        str, typer.Option(help="Numbers of loops, e.g. 1,4,8; default: 1 and the model's own.")
    ] = "",
    exit: Annotated[
        str | None, typer.Option(help="Where positions leave the loop early, e.g. kl:0.01.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Items of each task, the first so many; 0: all.")
    ] = 0,
    harness: Annotated[
        bool, typer.Option("--harness", help="Let lm-eval score the offline tasks too.")
    ] = False,
    include: Annotated[
        Path | None, typer.Option(help="Folder with more tasks of lm-eval's kind.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Let lm-eval ask a running `open-mythos serve` of the same model at this address.",
            show_default=False,
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Positions of one window of a longer text, for lm-eval here; a server's are one "
            "fewer than the model reads.",
            show_default=False,
        ),
    ] = None,
    quantize: Quantize = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score a model on tasks at several numbers of loops: one run, one table."""
    from open_mythos.cli.evaluate import Asked, run

    asked = Asked(
        tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
        loops=loops,
        exit=exit,
        limit=limit or None,
        harness=harness,
        include=include,
        server=server,
        window=window,
        quantised=quantize,
    )
    run(asked, checkpoint=checkpoint, device=device, as_json=as_json)
