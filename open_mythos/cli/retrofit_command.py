"""The options of `open-mythos retrofit`; the work is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer


def retrofit(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="HF_DIR", help="A Llama, Mistral or Qwen, its safetensors.", show_default=False
        ),
    ],
    prelude: Annotated[int, typer.Option(min=0, help="Layers before the loop, the first.")] = 8,
    core: Annotated[int, typer.Option(min=1, help="Layers of one loop.")] = 8,
    coda: Annotated[int, typer.Option(min=0, help="Layers behind the loop, the last.")] = 8,
    core_start: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="First layer of the loop; default: right before the coda.",
            show_default=False,
        ),
    ] = None,
    loops: Annotated[int, typer.Option(min=1, help="Loops that the network runs.")] = 4,
    start: Annotated[
        str, typer.Option(help="What later loops read: lti_first, concat_linear, none or substep.")
    ] = "lti_first",
    carry: Annotated[
        float, typer.Option(help="Share of the last loop's state in that, in (0, 1).")
    ] = 0.1,
    max_seq_len: Annotated[
        int | None,
        typer.Option(min=1, help="Positions; default: the source's.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="New folder.")] = Path("looped"),
) -> None:
    """Turn a pretrained model into a looped network that at one loop says what it said."""
    from open_mythos.cli.retrofit import run
    from open_mythos.retrofit.surgery import Plan

    plan = Plan(
        prelude=prelude,
        core=core,
        coda=coda,
        core_start=core_start,
        loops=loops,
        start=start,  # type: ignore[arg-type]  # Plan refuses what is none of them
        carry=carry,
        max_seq_len=max_seq_len,
    )
    run(source=source, plan=plan, out=out)
