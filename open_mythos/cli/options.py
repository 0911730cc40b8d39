"""Arguments and options that several commands have in common, worded once."""

from pathlib import Path
from typing import Annotated

import typer


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings, e.g. model.dim=256.", show_default=False
    ),
]
Checkpoint = Annotated[
    Path, typer.Argument(help="Folder with a trained model.", show_default=False)
]
Loops = Annotated[
    int | None,
    typer.Option("--loops", help="Times the looped block runs; default: the model's own."),
]
Device = Annotated[
    str, typer.Option(help="auto (the accelerator if there is one), cpu, cuda:1, ...")
]
OneTask = Annotated[
    str | None,
    typer.Option("--task", help="Of a model of mixed tasks, the one to ask.", show_default=False),
]
HeldOutText = Annotated[
    Path | None,
    typer.Option("--data", help="Text file; default: what the run held out.", show_default=False),
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", help="File for all numbers.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
