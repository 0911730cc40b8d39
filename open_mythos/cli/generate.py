"""`open-mythos generate`: continue a prompt, and show it while it is written."""

import sys
from pathlib import Path

import torch

from open_mythos.cli.opening import open_checkpoint
from open_mythos.data.tokenizer import decode_known
from open_mythos.generate.decode import Stop, stream
from open_mythos.generate.sampling import Sampling
from open_mythos.nn.loop.exits.registry import CALIBRATED
from open_mythos.nn.loop.work import metered
from open_mythos.nn.mode import evaluating


def run(  # noqa: PLR0913 -- one argument per option
    *,
    checkpoint: Path,
    prompt: str,
    n_loops: int | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    exit: str | None = None,
    device: str = "auto",
) -> None:
    """Print the prompt and its continuation, piece by piece.

    With an exit, what the loops computed and the time it took go to the error stream at the end.
    """
    opened = open_checkpoint(checkpoint, device)
    tokenizer, model = opened.tokenizer, opened.model
    start = tokenizer.encode(prompt) if prompt else [tokenizer.eos_id or 0]
    eos, where = tokenizer.eos_id, model.embed.weight.device
    if exit == CALIBRATED and n_loops is None and model.calibrated is not None:
        n_loops = model.calibrated.n_loops
    tokens = stream(
        model,
        torch.tensor([start], device=where),
        Stop(max_new_tokens, eos),
        Sampling(temperature, top_k, top_p),
        n_loops,
        torch.Generator(where).manual_seed(seed),
        exit=exit,
    )
    written, shown = list(start) if prompt else [], ""
    with torch.inference_mode(), evaluating(model), metered(model.recurrent) as meter:
        shown = _show(decode_known(tokenizer, written), shown)
        for token in tokens:
            if int(token) == eos:
                break
            written.append(int(token))
            shown = _show(decode_known(tokenizer, written), shown)
    sys.stdout.write("\n")
    if exit is not None:
        sys.stderr.write(f"{meter.work}; {meter.passes} passes in {meter.seconds:.1f} s\n")


def _show(text: str, shown: str) -> str:
    """Write what is new; half a character, which decodes to a mark, waits for its other half."""
    if text.endswith("\ufffd"):
        return shown
    sys.stdout.write(text[len(shown) :])
    sys.stdout.flush()
    return text
