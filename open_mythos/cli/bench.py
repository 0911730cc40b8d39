"""`open-mythos bench`: time, memory and accuracy of this machine, into a JSON file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from open_mythos.bench.catalogue import chosen
from open_mythos.bench.machine import about
from open_mythos.bench.record import Document, load, load_all
from open_mythos.bench.runner import Limits, Runner
from open_mythos.bench.sizes import size as named_size
from open_mythos.bench.suite import Setting, has_hugging_face
from open_mythos.bench.table import insert, render, results_files
from open_mythos.errors import InputError
from open_mythos.train.build import find_device


PEER = "OPEN_MYTHOS_PEER"
ATTENTIONS = ("gqa", "mla")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's options, as typed.

    Attributes:
        suites: Names; empty for those that the size is measured with.
        size: Name of the size; None is R on an accelerator and cpu elsewhere.
        attn: Kinds of attention, comma-separated.
        peer: Folder of the unpacked open-mythos 0.5.0; None asks the environment.
        out: The results file; it is added to.
        budget: Seconds for everything; None is no limit.
        only: Words, comma-separated, one of which a case's label must hold.
        missing: Leave out what the file has already.
        compile: Whether training is compiled; None is on CUDA only.
        threads: CPU threads; 0 leaves torch's own number.
        device: Where.
    """

    suites: Sequence[str]
    size: str | None
    attn: str
    peer: Path | None
    out: Path
    budget: float | None
    only: str
    missing: bool
    compile: bool | None
    threads: int
    device: str

    def words(self, size: str) -> list[str]:
        """The command's arguments without folders, which are nobody's business."""
        words = [*self.suites, "--size", size, "--attn", self.attn]
        words += ["--budget", f"{self.budget:g}"] if self.budget else []
        words += ["--only", self.only] if self.only else []
        words += ["--threads", str(self.threads)] if self.threads else []
        words += ["--missing"] if self.missing else []
        if self.compile is not None:
            words.append("--compile" if self.compile else "--no-compile")
        return words


def run(options: Options) -> int:
    """Measure, and write after each case; the exit code is 1 if nothing at all was found.

    Raises:
        InputError: If a suite, a size or a kind of attention is unknown.
    """
    device = find_device(options.device)
    size = named_size(options.size or ("cpu" if device.type == "cpu" else "R"))
    suites = chosen(options.suites, size.name)
    if options.threads:
        torch.set_num_threads(options.threads)
    peer = options.peer or _peer_from_environment()
    setting = Setting(
        device=device,
        size=size,
        attns=_attentions(options.attn),
        precision="bf16" if device.type == "cuda" else "fp32",
        compile=device.type == "cuda" if options.compile is None else options.compile,
        peer=peer,
        hugging_face=has_hugging_face() and size.name in ("R", "tiny"),
    )
    document = load(options.out) if options.out.exists() else Document()
    words = [word for word in options.only.split(",") if word]
    limits = Limits(seconds=options.budget, only=words, missing=options.missing)
    console = Console(stderr=True)
    runner = Runner(
        document,
        options.out,
        lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
        limits,
    )
    runner.go(setting, suites, about(device, options.words(size.name), peer))
    mine = [row for row in document.rows.values() if row.run == runner.run]
    count = {status: sum(r.status == status for r in mine) for status in ("ok", "error", "skipped")}
    said = ", ".join(f"{number} {status}" for status, number in count.items())
    console.print(f"{options.out}: {said}", highlight=False, markup=False, soft_wrap=True)
    return 0 if count["ok"] else 1


def table(out: Path, readme: Path | None) -> None:
    """Print the tables of a results file, or of a folder of them; or put them into a page.

    Raises:
        InputError: If there are no results, or the page lacks the markers.
    """
    paths = results_files(out) if out.is_dir() else [out]
    if not paths or not all(path.is_file() for path in paths):
        raise InputError(f"{out} has no results; measure first, with --out FILE")
    document = load_all(paths)
    if readme is None:
        print(render(document))
    else:
        page = readme.read_text(encoding="utf-8")
        readme.write_text(insert(page, document), encoding="utf-8")


def _attentions(text: str) -> list[str]:
    kinds = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [kind for kind in kinds if kind not in ATTENTIONS]
    if wrong or not kinds:
        raise InputError(f"--attn {text!r} must be gqa, mla or gqa,mla")
    return kinds


def _peer_from_environment() -> Path | None:
    folder = os.environ.get(PEER, "")
    return Path(folder) if folder else None
