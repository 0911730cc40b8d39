"""`open-mythos generate`: continue a prompt, and show it while it is written."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from open_mythos.cli.opening import open_checkpoint
from open_mythos.data.tokenizer import decode_known
from open_mythos.errors import InputError
from open_mythos.generate.params import Constraint, SamplingParams
from open_mythos.generate.speculate import Draft
from open_mythos.generate.text import Piece, stream_text
from open_mythos.nn.loop.exits.registry import CALIBRATED
from open_mythos.nn.loop.work import metered


@dataclass(frozen=True)
class Asked:
    """What the command is told.

    Attributes:
        checkpoint: Folder with a trained model.
        prompt: Text to continue.
        params: How.
        n_loops: Loops per token; None is the model's own number.
        exit: Where positions leave the loop early.
        draft: How to draft, if at all.
        regex: Expression that the text must match.
        json_schema: File with the schema of the text.
        device: "auto", or a torch device.
        quantised: "int8" or "int4" to hold the weights so.
    """

    checkpoint: Path
    prompt: str
    params: SamplingParams
    n_loops: int | None = None
    exit: str | None = None
    draft: Draft | None = None
    regex: str | None = None
    json_schema: Path | None = None
    device: str = "auto"
    quantised: str | None = None


def run(asked: Asked) -> None:
    """Print the prompt and its continuation, piece by piece.

    With an exit, what the loops computed and the time it took go to the error stream at the end.

    Raises:
        InputError: If two forms are asked for at once, or a request cannot be answered.
    """
    params = replace(asked.params, constraint=_constraint(asked))
    opened = open_checkpoint(asked.checkpoint, asked.device, asked.quantised)
    tokenizer, model, n_loops = opened.tokenizer, opened.model, asked.n_loops
    if asked.exit == CALIBRATED and n_loops is None and model.calibrated is not None:
        n_loops = model.calibrated.n_loops
    pieces = stream_text(
        model, tokenizer, asked.prompt or [tokenizer.eos_id or 0], params,
        n_loops=n_loops, exit=asked.exit, draft=asked.draft,
    )  # fmt: skip
    if params.logprobs is None:
        _write(decode_known(tokenizer, tokenizer.encode(asked.prompt)))
    with metered(model.recurrent) as meter:
        for piece in pieces:
            _write(piece.text if params.logprobs is None else _line(piece))
    if params.logprobs is None:
        _write("\n")
    if asked.exit is not None:
        sys.stderr.write(f"{meter.work}; {meter.passes} passes in {meter.seconds:.1f} s\n")


def _constraint(asked: Asked) -> Constraint | None:
    if asked.regex is not None and asked.json_schema is not None:
        raise InputError("--regex and --json-schema are two forms of one text; give one of them")
    if asked.regex is not None:
        return Constraint("regex", asked.regex)
    if asked.json_schema is None:
        return None
    try:
        return Constraint("json_schema", asked.json_schema.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the schema {asked.json_schema}: {error}") from error


def _line(piece: Piece) -> str:
    """A token for people: loops, log-probability, and the text that is certain with it."""
    assert piece.logprobs is not None
    text = json.dumps(piece.text, ensure_ascii=False)
    return f"{piece.loops:4d} loops {piece.logprobs.logprob:9.4f}  {text}\n"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
