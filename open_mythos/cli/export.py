"""`open-mythos export`: a trained model to a folder that transformers and the hub understand."""

from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from rich.console import Console

from open_mythos.cli.opening import open_checkpoint
from open_mythos.data.tokenizer import Tokenizer
from open_mythos.errors import CheckpointError, InputError, MissingExtraError


def run(
    *, checkpoint: Path, folder: Path, n_loops: int | None, said: Mapping[str, str], code: bool
) -> None:
    """Write the folder, with the tokenizer if the model has one, and say what is in it.

    Raises:
        MissingExtraError: Without transformers.
        CheckpointError: If there is no model, or the folder already holds one.
    """
    if (folder / "config.json").exists():
        raise CheckpointError(f"{folder} already holds a model; give another folder")
    try:
        export = import_module("open_mythos.hf.export")
        import_module("transformers.utils.logging").disable_progress_bar()
    except ImportError as error:
        raise MissingExtraError("transformers", "hf", "an export for it") from error
    opened = open_checkpoint(checkpoint)
    tokenizer: Tokenizer | None = None
    with suppress(InputError):  # a model of a task: no text, no tokenizer
        tokenizer = opened.tokenizer
    story = export.Story(**{"name": folder.name, **{k: v for k, v in said.items() if v}})
    export.export_model(
        opened.model, folder, tokenizer=tokenizer, story=story, num_loops=n_loops, code=code
    )
    kept = "no tokenizer" if tokenizer is None else f"{tokenizer.vocab_size:,} tokens"
    loads = "loads anywhere, trust_remote_code=True" if code else "loads with open_mythos.hf.auto"
    Console(stderr=True).print(
        f"{checkpoint} -> {folder}: {kept}; {loads}", highlight=False, markup=False
    )
