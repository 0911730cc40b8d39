"""The options of `open-mythos chat`, whose work is imported when it runs."""

from typing import Annotated

import typer

from open_mythos.cli.options import (
    Checkpoint,
    Device,
    EarlyExit,
    Loops,
    RepetitionPenalty,
    StopTexts,
    Temperature,
    TopK,
    TopP,
)


def chat(
    checkpoint: Checkpoint,
    loops: Loops = None,
    exit: EarlyExit = None,
    system: Annotated[
        str, typer.Option(help="What the model is told first; needs a chat template.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 256,
    temperature: Temperature = 0.8,
    top_k: TopK = 50,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    stop: StopTexts = None,
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
