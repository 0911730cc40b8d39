"""A folder's tensors, as transformers or as we name them, become the network's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from open_mythos.errors import CheckpointError
from open_mythos.model.mythos import OpenMythos
from open_mythos.vllm.weights import load_into


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["native", "hub"])
def test_a_saved_folder_is_taken_whole(
    tiny_config: Any, randomised: Any, tmp_path: Path, kind: str, tied: bool
) -> None:
    cfg = tiny_config(core_ffn="dense", tied_head=tied)
    model, empty = randomised(OpenMythos(cfg)).eval(), OpenMythos(cfg).eval()
    if kind == "native":
        model.save_pretrained(tmp_path)
    else:
        pytest.importorskip("transformers", reason="transformers, of the extra [hf]")
        from open_mythos.hf.export import export_model

        export_model(model, tmp_path, code=False)
    tensors = load_file(tmp_path / "model.safetensors")
    loaded = load_into(empty, tensors.items(), tied_head=tied)
    assert loaded == set(dict(empty.named_parameters()))
    ids = torch.randint(cfg.vocab_size, (2, 5))
    assert torch.equal(empty(ids, 2), model(ids, 2))


def test_names_and_shapes_that_differ_are_named(tiny_config: Any) -> None:
    model = OpenMythos(tiny_config(core_ffn="dense"))
    state = dict(model.named_parameters())
    with pytest.raises(CheckpointError, match=r"has model\.what, which the network does not"):
        load_into(model, [("model.what", torch.ones(1))], tied_head=True)
    with pytest.raises(CheckpointError, match=r"norm\.weight has shape \(3,\)"):
        load_into(model, [("norm.weight", torch.ones(3))], tied_head=True)
    del state["recurrent.block.attn.wo.weight"]
    with pytest.raises(CheckpointError, match=r"lacks recurrent\.block\.attn\.wo\.weight"):
        load_into(model, state.items(), tied_head=True)
