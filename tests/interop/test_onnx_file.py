"""What onnxruntime computes from the file is what the network computes."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.errors import InputError, MissingExtraError
from open_mythos.interop import onnx_file
from open_mythos.interop.onnx_file import Session, export_onnx
from open_mythos.model.mythos import OpenMythos


HERE = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="onnx, onnxscript and onnxruntime, of the extra [onnx]")
@pytest.mark.parametrize("core", ["dense", "moe"])
def test_the_file_computes_the_networks_logits(
    tiny_config: Any, randomised: Any, attn_type: str, core: str, tmp_path: Path
) -> None:
    cfg = tiny_config(attn_type=attn_type, core_ffn=core, prelude_layers=0)
    model = randomised(OpenMythos(cfg)).eval()
    path = tmp_path / "model.onnx"
    assert export_onnx(model, path, 2).near
    runtime = Session(path)
    for shape in ((1, 1), (2, 9)):
        ids = torch.randint(cfg.vocab_size, shape)
        torch.testing.assert_close(runtime(ids), model(ids, 2), rtol=0, atol=1e-4)


def test_without_the_packages_the_extra_is_named(
    tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"open-mythos\[onnx\]"):
        export_onnx(OpenMythos(tiny_config()), tmp_path / "model.onnx")


def test_other_types_than_float32_are_refused(
    tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: object())
    with pytest.raises(InputError, match=r"bfloat16; ONNX files are float32"):
        export_onnx(OpenMythos(tiny_config()).bfloat16(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
