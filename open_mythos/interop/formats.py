"""Formats that a network can be exported to with its loops fixed, and why not to others."""

import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from open_mythos.data.tokenizer import Tokenizer, save_tokenizer
from open_mythos.errors import CheckpointError, InputError
from open_mythos.interop.graph import Checked, export_graph
from open_mythos.interop.onnx_file import export_onnx
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.recurrent import check_loops


HF = "hf"  # a folder for transformers: hf/export.py
WAYS: dict[str, Callable[[OpenMythos, Path, int], Checked]] = {
    "pt2": export_graph,
    "onnx": export_onnx,
}
NOTES = "export.json"
REFUSED = {
    "gguf": (
        "there is no GGUF export: llama.cpp, which reads it, has no looped architecture, so the "
        "file would hold the core's weights once per loop, and be right only for a loop that is a "
        "plain stack of Llama's blocks (no injection, no norm at the loop's border, no loop index, "
        "no adapter, no halting); use --format onnx, or `open-mythos serve`"
    )
}


def check_format(form: str) -> None:
    """Refuse what nothing here writes.

    Raises:
        InputError: Saying why, where there is a reason.
    """
    if form in REFUSED:
        raise InputError(REFUSED[form])
    if form not in (HF, *WAYS):
        raise InputError(f"--format is {form!r}; it must be one of {', '.join((HF, *WAYS))}")


def export_fixed(
    model: OpenMythos,
    folder: str | Path,
    form: str,
    n_loops: int | None = None,
    *,
    tokenizer: Tokenizer | None = None,
) -> Checked:
    """A folder with model.pt2 or model.onnx, the tokenizer, and export.json, which says how.

    Args:
        model: On a CPU. It is converted to float32 for ONNX, and stays so.
        folder: Where to.
        form: "pt2" or "onnx".
        n_loops: Loops of every pass; None is the config's max_loop_iters.
        tokenizer: Its tokenizer; None leaves none.

    Returns:
        How near the written file comes to the network.

    Raises:
        InputError: If the format is none of these, or the network has no such form.
        CheckpointError: If the folder has such a file already.
    """
    check_format(form)
    if form not in WAYS:
        raise InputError(f"{form!r} has no fixed loops; use open_mythos.hf.export for it")
    root = Path(folder)
    path = root / f"model.{form}"
    if root.is_file() or path.exists():
        raise CheckpointError(f"{path if path.exists() else root} is there; give another folder")
    if form == "onnx":
        model.float()
    root.mkdir(parents=True, exist_ok=True)
    loops = check_loops(n_loops, model.cfg.max_loop_iters)
    found = WAYS[form](model, path, loops)
    if tokenizer is not None:
        save_tokenizer(tokenizer, root)
    notes = {
        "format": form,
        "n_loops": loops,
        "input": {"ids": ["batch", "sequence", "int64"]},
        "output": {"logits": ["batch", "sequence", "vocab"]},
        "longest": model.cfg.max_seq_len,
        "checked": asdict(found),
        "open_mythos": version("open-mythos"),
        "torch": torch.__version__,
        "config": model.cfg.to_dict(),
    }
    (root / NOTES).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
    return found
