"""The options of `open-mythos generate`, whose work is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from open_mythos.cli.options import (
    Checkpoint,
    Device,
    EarlyExit,
    Loops,
    Quantize,
    RepetitionPenalty,
    StopTexts,
    Temperature,
    TopK,
    TopP,
)


def generate(
    checkpoint: Checkpoint,
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    loops: Loops = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to add at most.")] = 64,
    temperature: Temperature = 1.0,
    top_k: TopK = 50,
    top_p: TopP = 1.0,
    min_p: Annotated[
        float, typer.Option(help="Keep tokens at least this likely next to the likeliest.")
    ] = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    presence_penalty: Annotated[
        float, typer.Option(help="Above 0: discourage what stands in the text.")
    ] = 0.0,
    frequency_penalty: Annotated[
        float, typer.Option(help="Above 0: the same, for each time that it stands there.")
    ] = 0.0,
    stop: StopTexts = None,
    regex: Annotated[
        str | None,
        typer.Option(help="Expression that the text must match.", show_default=False),
    ] = None,
    json_schema: Annotated[
        Path | None,
        typer.Option(help="File with the JSON schema of the text.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="Show each token's loops and log-probability.")
    ] = False,
    exit: EarlyExit = None,
    draft_loops: Annotated[
        int | None,
        typer.Option(
            help="Draft with so many loops and verify with all: the same text, sooner perhaps.",
            show_default=False,
        ),
    ] = None,
    draft_tokens: Annotated[int, typer.Option(help="Tokens of a draft.")] = 4,
    quantize: Quantize = None,
    device: Device = "auto",
) -> None:
    """Write text with a trained model."""
    from open_mythos.cli.generate import Asked, run
    from open_mythos.generate.params import SamplingParams
    from open_mythos.generate.speculate import Draft

    params = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seed=seed,
        max_tokens=max_new_tokens,
        stop=tuple(stop or ()),
        logprobs=0 if logprobs else None,
    )
    draft = None if draft_loops is None else Draft(draft_loops, draft_tokens)
    run(Asked(checkpoint, prompt, params, loops, exit, draft, regex, json_schema, device, quantize))
