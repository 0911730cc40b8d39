"""The options of `open-mythos chat`, whose work is imported when it runs."""

from typing import Annotated

import typer

from open_mythos.cli.options import Checkpoint, Device, Loops


def chat(
    checkpoint: Checkpoint,
    loops: Loops = None,
    exit: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:THRESHOLD]",
            help="Where tokens leave the loop early, e.g. kl:0.001, or calibrated.",
            show_default=False,
        ),
    ] = None,
    system: Annotated[
        str, typer.Option(help="What the model is told first; needs a chat template.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")] = 50,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest mass p.")] = 1.0,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1: discourage what stands in prompt and text.")
    ] = 1.0,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="Text to end before; may be given again.", show_default=False),
    ] = None,
    as_text: Annotated[
        bool,
        typer.Option("--continue", help="Continue text, even where there is a chat template."),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the session; default: another each time.", show_default=False),
    ] = None,
    device: Device = "auto",
) -> None:
    """Talk with a trained model, and see how many loops each token took; /help inside."""
    from open_mythos.cli.chat import Asked, run
    from open_mythos.generate.params import SamplingParams

    params = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        max_tokens=max_new_tokens,
        stop=tuple(stop or ()),
    )
    run(Asked(checkpoint, params, loops, exit, system, as_text, seed, device))
