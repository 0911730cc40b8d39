"""The options of `open-mythos laws`, importing its work when it runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from open_mythos.cli.options import JsonFile


def laws(
    law: Annotated[
        Literal["test-time", "training", "iso-depth"],
        typer.Argument(help="What the loss is a function of.", show_default=False),
    ],
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="Run folders, and .csv files with columns named loss, loops, mean_loops, tokens, "
            "params, params_once, params_looped, run.",
            show_default=False,
        ),
    ],
    judge: Annotated[str, typer.Option(help="Evaluator of the runs, e.g. hops_8.")] = "validation",
    resamples: Annotated[int, typer.Option(min=1, help="Refits behind the intervals.")] = 500,
    level: Annotated[
        float, typer.Option(help="How often an interval is to hold the truth.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of the refits.")] = 0,
    json_file: JsonFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Picture: .png, .svg or .pdf.", show_default=False)
    ] = None,
) -> None:
    """Fit a scaling law of looped networks, with intervals of its constants."""
    from open_mythos.cli.laws import Options, run

    run(
        Options(
            law=law,
            sources=sources,
            judge=judge,
            resamples=resamples,
            level=level,
            seed=seed,
            json_file=json_file,
            out=out,
        )
    )
