"""The table of `open-mythos tokenizer`: options, each command importing its work when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from open_mythos.cli.options import AsJson


tokenizer = typer.Typer(
    help="Train a tokenizer, or see what one does.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@tokenizer.command("train")
def train(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Files, folders or Hugging Face ids, as for `data prepare`.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder, or a .json file in one.", show_default=False)],
    vocab_size: Annotated[
        int, typer.Option(help="Tokens, with the 256 bytes and 5 special ones.")
    ] = 16384,
    field: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    limit_mb: Annotated[
        float, typer.Option(min=0, help="Read so many MB of text at most; 0 reads all.")
    ] = 0,
) -> None:
    """Learn a byte-level BPE from text: no text is lost in it, and chats have their tokens."""
    from open_mythos.cli.tokenizer import run_train

    run_train(sources=sources, out=out, vocab_size=vocab_size, field=field, limit_mb=limit_mb)


@tokenizer.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="byte, plays, o200k_harmony, a file, a folder, or a Hugging Face id.",
            show_default=False,
        ),
    ],
    text: Annotated[
        str | None, typer.Argument(help="Text to take apart.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a tokenizer's sizes and special tokens, and how it takes a text apart."""
    from open_mythos.cli.tokenizer import run_show

    run_show(name=name, text=text, as_json=as_json)
