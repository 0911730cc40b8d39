"""From a run to a folder for transformers."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from open_mythos.cli.main import app
from open_mythos.cli.opening import open_checkpoint
from open_mythos.data.tokenizer import tokenizer_from_folder
from open_mythos.interop import formats
from open_mythos.interop.graph import Checked
from open_mythos.model.mythos import OpenMythos


def invoke(*words: Any) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, words)])


def test_a_run_on_text_goes_with_its_tokenizer(text_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers, of the extra [hf]")
    out = tmp_path / "hub"
    shown = invoke(text_run, out, "--data", "Plays.", "--loops", 2)
    assert shown.exit_code == 0, shown.output
    opened = open_checkpoint(text_run)
    assert tokenizer_from_folder(out).encode("To be") == opened.tokenizer.encode("To be")
    ids = torch.arange(6).view(1, 6)
    assert torch.equal(OpenMythos.from_pretrained(out)(ids, 2), opened.model(ids, 2))
    assert (out / "modeling_open_mythos.py").is_file()
    assert "Plays." in (out / "README.md").read_text()
    assert invoke(text_run, out).exit_code == 2  # there is a model in it now


def test_a_run_on_a_task_has_no_tokenizer(task_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers, of the extra [hf]")
    shown = invoke(task_run, tmp_path / "hub", "--no-code")
    assert shown.exit_code == 0, shown.output
    assert "no tokenizer" in " ".join(shown.stderr.split())
    assert {p.name for p in (tmp_path / "hub").iterdir()} >= {"config.json", "README.md"}
    assert not list((tmp_path / "hub").glob("*.py"))


def test_without_transformers_the_extra_is_named(
    task_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("transformers", "open_mythos.hf.export"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError):
        importlib.import_module("open_mythos.hf.export")
    shown = invoke(task_run, tmp_path / "hub")
    assert shown.exit_code == 2
    assert "open-mythos[hf]" in shown.stderr


def test_a_graph_goes_with_its_tokenizer_and_the_difference_is_said(
    text_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def way(model: OpenMythos, path: Path, n_loops: int) -> Checked:
        path.write_text(f"{n_loops} loops")
        return Checked(2e-6, 1.0)

    monkeypatch.setattr(formats, "WAYS", {"onnx": way})
    shown = invoke(text_run, tmp_path / "out", "--format", "onnx", "--loops", 3)
    assert shown.exit_code == 0, shown.output
    assert "3 loops; its logits lie within 2e-06" in " ".join(shown.stderr.split())
    assert (tmp_path / "out" / "model.onnx").read_text() == "3 loops"
    opened = open_checkpoint(text_run)
    text = "To be"
    assert tokenizer_from_folder(tmp_path / "out").encode(text) == opened.tokenizer.encode(text)


def test_a_format_that_nobody_writes_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    shown = invoke(tmp_path / "nothing", tmp_path / "out", "--format", "gguf")
    assert shown.exit_code == 2
    assert "no looped architecture" in shown.stderr
