"""Files of a foreign folder, and the order of what rotates together."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from open_mythos.checkpoint.foreign.source import (
    Settings,
    interleaved,
    read_settings,
    read_weights,
)
from open_mythos.errors import CheckpointError


def test_rows_half_a_head_apart_become_neighbours() -> None:
    heads, width = 3, 8
    weight = torch.arange(heads * width * 2.0).view(heads * width, 2)
    got = interleaved(weight, heads)
    for head in range(heads):
        for pair in range(width // 2):
            for half in range(2):
                row = head * width + half * width // 2 + pair
                assert torch.equal(got[head * width + 2 * pair + half], weight[row])
    assert torch.equal(interleaved(weight[:, 0], heads), got[:, 0])


def test_weights_in_several_files_are_put_together(tmp_path: Path) -> None:
    parts = {"a.safetensors": {"x": torch.randn(2)}, "b.safetensors": {"y": torch.randn(3)}}
    for name, tensors in parts.items():
        save_file(tensors, tmp_path / name)
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    given = read_weights(tmp_path)
    assert torch.equal(given.take("x", 2), parts["a.safetensors"]["x"])
    with pytest.raises(CheckpointError, match="'y' first"):
        given.close()
    assert torch.equal(given.take("y", 3), parts["b.safetensors"]["y"])
    given.close()
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no index"):
        read_weights(tmp_path)


def test_pickles_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        read_settings(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        read_weights(tmp_path)
    torch.save({"x": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickle"):
        read_weights(tmp_path)


def test_settings_are_what_they_should_be_or_named() -> None:
    said = Settings({"a": 3, "b": 0.5, "c": True, "d": "x"}, "ouro")
    assert said.whole("a") == 3
    assert said.real("a") == 3.0
    assert said.real("b") == 0.5
    assert said.flag("c", default=False)
    assert said.whole("e", 7) == 7
    for ask, key in ((said.whole, "b"), (said.whole, "c"), (said.real, "c"), (said.real, "d")):
        with pytest.raises(CheckpointError, match=f"{key}="):
            ask(key)
    with pytest.raises(CheckpointError, match="a=3"):
        said.flag("a", default=False)
    with pytest.raises(CheckpointError, match=r"d is 'x', for which .* it loads d='y'"):
        said.must("d", "y", absent="y")
    with pytest.raises(CheckpointError, match=r"e is 1 \(the default of ouro\)"):
        said.must("e", 2, absent=1)
