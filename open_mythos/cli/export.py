"""`open-mythos export`: a trained model to a folder that others understand."""

from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from rich.console import Console

from open_mythos.cli.opening import Opened, open_checkpoint
from open_mythos.data.tokenizer import Tokenizer
from open_mythos.errors import CheckpointError, InputError, MissingExtraError
from open_mythos.interop.formats import HF, check_format, export_fixed


def run(
    *,
    checkpoint: Path,
    folder: Path,
    n_loops: int | None,
    said: Mapping[str, str],
    code: bool,
    form: str = HF,
) -> None:
    """Write the folder, with the tokenizer if the model has one, and say what is in it.

    Args:
        checkpoint: Folder with a trained model.
        folder: Where to.
        n_loops: Loops; None is the model's own number.
        said: For the model card.
        code: Whether Python files go with it.
        form: "hf" for transformers, "pt2" or "onnx" for a graph with its loops fixed.

    Raises:
        InputError: If the format is none, or the model has no such form.
        MissingExtraError: Without transformers, or what the format needs.
        CheckpointError: If there is no model, or the folder already holds one.
    """
    check_format(form)
    if form == HF:
        _hf(checkpoint=checkpoint, folder=folder, n_loops=n_loops, said=said, code=code)
        return
    opened = open_checkpoint(checkpoint)
    found = export_fixed(opened.model, folder, form, n_loops, tokenizer=_tokenizer(opened))
    _say(
        f"{checkpoint} -> {folder / 'model'}.{form}: {n_loops or opened.model.cfg.max_loop_iters} "
        f"loops; its logits lie within {found.difference:.1g} of the model's"
    )


def _hf(
    *, checkpoint: Path, folder: Path, n_loops: int | None, said: Mapping[str, str], code: bool
) -> None:
    if (folder / "config.json").exists():
        raise CheckpointError(f"{folder} already holds a model; give another folder")
    try:
        export = import_module("open_mythos.hf.export")
        import_module("transformers.utils.logging").disable_progress_bar()
    except ImportError as error:
        raise MissingExtraError("transformers", "hf", "an export for it") from error
    opened = open_checkpoint(checkpoint)
    tokenizer = _tokenizer(opened)
    story = export.Story(**{"name": folder.name, **{k: v for k, v in said.items() if v}})
    export.export_model(
        opened.model, folder, tokenizer=tokenizer, story=story, num_loops=n_loops, code=code
    )
    kept = "no tokenizer" if tokenizer is None else f"{tokenizer.vocab_size:,} tokens"
    loads = "loads anywhere, trust_remote_code=True" if code else "loads with open_mythos.hf.auto"
    _say(f"{checkpoint} -> {folder}: {kept}; {loads}")


def _tokenizer(opened: Opened) -> Tokenizer | None:
    """The model's tokenizer; None of a model of a task, which reads no text."""
    with suppress(InputError):
        return opened.tokenizer
    return None


def _say(line: str) -> None:
    Console(stderr=True).print(line, highlight=False, markup=False)
