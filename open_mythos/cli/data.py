"""`open-mythos data`: text to folders of tokens, and whether such a folder is as it was written."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeRemainingColumn


if TYPE_CHECKING:
    from open_mythos.data.prepare import Progress
    from open_mythos.data.prepared import Prepared


# Seconds between lines where there is no terminal.
LINE_EVERY = 10.0
INTERRUPTED = 130
# Row length that the share of real tokens is shown for.
SHOWN_SEQ_LEN = 2048

app = typer.Typer(help="Prepare text for training, and check what was prepared.")


@app.command()
def prepare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Files (.txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet), folders of them, or "
            "Hugging Face ids: owner/name[:subset[:split]].",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the tokens.", show_default=False)],
    tokenizer: Annotated[
        str, typer.Option(help="plays, byte, a path or a Hugging Face id.")
    ] = "plays",
    field: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    validation_share: Annotated[
        float, typer.Option(help="Chance of a document to be held out.")
    ] = 0.01,
    shard_tokens: Annotated[int, typer.Option(help="Tokens of a file.")] = 100_000_000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that encode.")] = 1,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out records without text; count them.")
    ] = False,
) -> None:
    """Turn documents into a folder of tokens; run it again to go on after a stop."""
    from open_mythos.data.prepare import Request, prepare as run

    request = Request(
        sources=tuple(sources),
        out=out,
        tokenizer=tokenizer,
        text_field=field,
        validation_share=validation_share,
        shard_tokens=shard_tokens,
        workers=workers,
        skip_bad=skip_bad,
    )
    watcher = Watcher(Console(stderr=True))
    try:
        found = run(request, watcher)
    except KeyboardInterrupt:
        watcher.close()
        typer.echo("stopped; run the same command again to go on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        watcher.close()
    print(summary(found))


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A prepared folder.", show_default=False)],
) -> None:
    """Compare every file of a prepared folder with its checksum, and say what it holds."""
    from open_mythos.data.prepared import open_prepared

    found = open_prepared(folder)
    found.check()
    print(summary(found))


class Watcher:
    """Shows a preparation to a person: a live line on a terminal, now and then one elsewhere.

    Attributes:
        console: Where to write; standard error, so that standard output stays for results.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Bar | None = None
        self._began = self._shown = time.monotonic()
        self._first: Progress | None = None

    def __call__(self, now: "Progress") -> None:
        """Show how far it has come."""
        self._first = self._first or now
        if self.console.is_terminal:
            bar = self._bar or self._raised(now)
            bar.update(bar.task_ids[0], completed=now.read, words=self.words(now))
        elif time.monotonic() - self._shown >= LINE_EVERY:
            self._shown = time.monotonic()
            share = f"{now.read / now.total:.1%}  " if now.total else ""
            self.console.print(f"{share}{self.words(now)}", highlight=False, soft_wrap=True)

    def words(self, now: "Progress") -> str:
        """The numbers in one short text; the speed is that of this call alone."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        new = now.text_bytes - (self._first.text_bytes if self._first else 0)
        found = f"{now.documents:,} documents  {now.tokens / 1e6:,.1f}M tokens  "
        skipped = f"  {now.skipped:,} skipped" if now.skipped else ""
        return f"{found}{new / seconds / 1e6:.1f} MB/s{skipped}"

    def close(self) -> None:
        """Take the line down; closing twice is harmless."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _raised(self, now: "Progress") -> Bar:
        bar = Bar(
            *([BarColumn(bar_width=20)] if now.total else []),
            TextColumn("{task.fields[words]}"),
            *([TextColumn("ETA"), TimeRemainingColumn(compact=True)] if now.total else []),
            console=self.console,
            transient=True,
        )
        bar.add_task("", total=now.total, completed=now.read, words="")
        bar.start()
        self._bar = bar
        return bar


def summary(found: "Prepared") -> str:
    """What a prepared folder holds, in a few lines."""
    manifest = found.manifest
    lines = [f"{found.folder}: tokenizer {manifest.tokenizer} ({manifest.vocab_size:,} tokens)"]
    for name, split in manifest.splits.items():
        ratio = f", {split.text_bytes / split.tokens:.2f} bytes a token" if split.tokens else ""
        lines.append(f"  {name}: {split.documents:,} documents, {split.tokens:,} tokens{ratio}")
    if manifest.skipped or manifest.blank:
        lines.append(f"  left out: {manifest.skipped:,} bad records, {manifest.blank:,} blank ones")
    packed, alone = found.real_share(SHOWN_SEQ_LEN)
    lines.append(
        f"  real tokens in rows of {SHOWN_SEQ_LEN}: {packed:.2%} packed, as training does it; "
        f"{alone:.2%} with one document a row"
    )
    if not manifest.splits["validation"].tokens:
        lines.append("  no document was held out: raise --validation-share to have some")
    return "\n".join(lines)
