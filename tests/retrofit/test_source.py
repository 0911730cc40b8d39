"""Configs that our blocks cannot follow are refused by the key that says so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from open_mythos.config.mythos import FIELDS
from open_mythos.errors import CheckpointError, ConfigError, DamagedError
from open_mythos.retrofit.source import open_source, read_fields


LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "gemma2"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("num_local_experts", 8),
        ("quantization_config", {"quant_method": "gptq"}),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "llama3", "rope_theta": 1e4}),
        ("partial_rotary_factor", 0.5),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("hidden_size", None),
    ],
)
def test_a_key_that_changes_the_equations_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        read_fields({**LLAMA, key: value})


def test_windows_count_where_the_family_uses_them() -> None:
    windowed = {**LLAMA, "sliding_window": 32}
    with pytest.raises(ConfigError, match="sliding_window"):
        read_fields({**windowed, "model_type": "mistral"})
    with pytest.raises(ConfigError, match="sliding_window"):
        read_fields({**windowed, "model_type": "qwen2", "use_sliding_window": True})
    read_fields({**windowed, "model_type": "qwen2", "use_sliding_window": False})


@pytest.mark.parametrize(
    ("told", "field", "value"),
    [
        ({"rope_theta": 7e4}, "rope_theta", 7e4),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 8e4}}, "rope_theta", 8e4),
        ({}, "rope_theta", 1e4),
        ({}, "n_kv_heads", 6),
        ({"num_key_value_heads": 2}, "n_kv_heads", 2),
        ({"head_dim": 8}, "head_width", None),
        ({"head_dim": 16}, "head_width", 16),
        ({"rms_norm_eps": 1e-5}, "norm_eps", 1e-5),
        ({}, "tied_head", False),
        ({"tie_word_embeddings": True}, "tied_head", True),
        ({"model_type": "qwen2"}, "attention_bias", True),
        ({"model_type": "qwen3"}, "qk_norm", True),
    ],
)
def test_fields_of_both_kinds_of_config(told: dict[str, Any], field: str, value: Any) -> None:
    fields = read_fields({**LLAMA, **told})
    assert fields.get(field) == value
    assert fields.keys() <= set(FIELDS)


def test_weights_in_several_files(pretrained: Callable[..., tuple[Any, Path]]) -> None:
    model, folder = pretrained("llama")
    whole = load_file(folder / "model.safetensors")
    model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    source = open_source(folder)
    assert len(set(source.files.values())) > 1
    assert source.n_layers == 5
    for name, tensor in whole.items():
        assert torch.equal(source.tensor(name), tensor), name
    with pytest.raises(CheckpointError, match="layers\\.9"):
        source.tensor("model.layers.9.mlp.up_proj.weight")


def test_folders_that_are_no_source(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="does not exist"):
        open_source(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(CheckpointError, match="safetensors"):
        open_source(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="pickle"):
        open_source(tmp_path)
    save_file({"x": torch.zeros(9)}, tmp_path / "model.safetensors")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(DamagedError, match=r"model\.safetensors"):
        open_source(tmp_path)
