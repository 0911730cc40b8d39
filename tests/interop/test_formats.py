"""A folder of an export says what is in it; what is not written is refused with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.tokenizer import tokenizer_from_folder
from open_mythos.errors import CheckpointError, InputError
from open_mythos.interop import formats
from open_mythos.interop.formats import check_format, export_fixed
from open_mythos.interop.graph import Checked
from open_mythos.model.mythos import OpenMythos


def write(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let both ways write a word, and note what they were asked."""
    seen: list[Any] = []

    def way(model: OpenMythos, path: Path, n_loops: int) -> Checked:
        seen.append((model.embed.weight.dtype, path.name, n_loops))
        path.write_text("graph")
        return Checked(1e-6, 2.0)

    monkeypatch.setattr(formats, "WAYS", {"pt2": way, "onnx": way})
    return seen


def test_a_folder_names_format_loops_and_config(
    tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, model = write(monkeypatch), OpenMythos(tiny_config(vocab_size=512)).bfloat16()
    found = export_fixed(model, tmp_path / "a", "pt2", 2, tokenizer=ByteTokenizer())
    export_fixed(model, tmp_path / "b", "onnx")
    loops = model.cfg.max_loop_iters
    assert seen == [(torch.bfloat16, "model.pt2", 2), (torch.float32, "model.onnx", loops)]
    notes = json.loads((tmp_path / "a" / "export.json").read_text())
    assert (notes["format"], notes["n_loops"]) == ("pt2", 2)
    assert notes["checked"] == {"difference": found.difference, "scale": found.scale}
    assert MythosConfig.from_dict(notes["config"]) == model.cfg
    assert tokenizer_from_folder(tmp_path / "a").encode("To be") == ByteTokenizer().encode("To be")
    with pytest.raises(CheckpointError, match=r"model\.pt2 is there"):
        export_fixed(model, tmp_path / "a", "pt2")


@pytest.mark.parametrize(
    ("form", "why"),
    [("gguf", "llama.cpp, which reads it, has no looped"), ("tflite", "must be one of hf, pt2")],
)
def test_what_nobody_writes_is_refused_with_the_reason(form: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        check_format(form)


def test_transformers_folders_are_written_elsewhere(tiny_config: Any, tmp_path: Path) -> None:
    check_format("hf")
    with pytest.raises(InputError, match=r"open_mythos\.hf\.export"):
        export_fixed(OpenMythos(tiny_config()), tmp_path, "hf")
