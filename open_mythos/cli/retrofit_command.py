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
        str | None,
        typer.Option(
            help="What later loops read: lti_first (default), concat_linear, none or substep.",
            show_default=False,
        ),
    ] = None,
    carry: Annotated[
        float, typer.Option(help="Share of the last loop's state in that, in (0, 1).")
    ] = 0.1,
    max_seq_len: Annotated[
        int | None,
        typer.Option(min=1, help="Positions; default: the source's.", show_default=False),
    ] = None,
    lora_rank: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Fold loops x core layers into the core, each loop with corrections of this rank.",
            show_default=False,
        ),
    ] = None,
    shared: Annotated[
        str, typer.Option(help="The core of folded layers: average, first, last or step.")
    ] = "average",
    out: Annotated[Path, typer.Option(help="New folder.")] = Path("looped"),
) -> None:
    """Turn a pretrained model into a looped network that at one loop says what it said.

    With --lora-rank it says so at --loops loops, as nearly as that rank allows.
    """
    from open_mythos.cli.retrofit import run
    from open_mythos.retrofit.surgery import Plan

    plan = Plan(
        prelude=prelude,
        core=core,
        coda=coda,
        core_start=core_start,
        loops=loops,
        start=start or ("lti_first" if lora_rank is None else "none"),  # type: ignore[arg-type]
        carry=carry,
        max_seq_len=max_seq_len,
        lora_rank=lora_rank,
        shared=shared,  # type: ignore[arg-type]  # Plan refuses what is none of them
    )
    run(source=source, plan=plan, out=out)
