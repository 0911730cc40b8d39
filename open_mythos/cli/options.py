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
Quantize = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        metavar="int8|int4",
        help="Hold the weights in so few bits (torchao).",
        show_default=False,
    ),
]
Temperature = Annotated[float, typer.Option("--temperature", help="0 is greedy.")]
TopK = Annotated[int, typer.Option("--top-k", help="Keep the k likeliest tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option("--top-p", help="Keep the likeliest mass p.")]
RepetitionPenalty = Annotated[
    float,
    typer.Option(
        "--repetition-penalty", help="Above 1: discourage what stands in prompt and text."
    ),
]
StopTexts = Annotated[
    list[str] | None,
    typer.Option("--stop", help="Text to end before; may be given again.", show_default=False),
]
EarlyExit = Annotated[
    str | None,
    typer.Option(
        "--exit",
        metavar="NAME[:THRESHOLD]",
        help="Where tokens leave the loop early, e.g. kl:0.001, or calibrated.",
        show_default=False,
    ),
]
