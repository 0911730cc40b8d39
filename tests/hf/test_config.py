"""A config says the same in transformers' file, in ours, and as a MythosConfig."""

import json
from pathlib import Path
from typing import Any

import pytest

from open_mythos.checkpoint.store import read_config
from open_mythos.errors import ConfigError
from open_mythos.hf.config import OpenMythosConfig
from open_mythos.model.mythos import OpenMythos


def test_there_and_back_through_a_folder(any_config: Any, tmp_path: Path) -> None:
    config = OpenMythosConfig.of(any_config, num_loops=2, exit="kl:0.1")
    config.save_pretrained(tmp_path)
    again = OpenMythosConfig.from_pretrained(tmp_path)
    assert again.mythos == any_config
    assert (again.num_loops, again.exit) == (2, "kl:0.1")
    assert read_config(tmp_path) == any_config


def test_defaults_are_written_too(tmp_path: Path) -> None:
    OpenMythosConfig().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dim"] == OpenMythosConfig().dim


def test_it_reads_what_this_library_writes(any_config: Any, tmp_path: Path) -> None:
    OpenMythos(any_config).save_pretrained(tmp_path)
    assert OpenMythosConfig.from_pretrained(tmp_path).mythos == any_config


def test_usual_names_are_names_of_our_fields(tiny_config: Any) -> None:
    config = OpenMythosConfig.of(tiny_config(core_layers=2), num_loops=5)
    assert config.hidden_size == config.dim
    assert config.num_key_value_heads == config.n_kv_heads
    assert config.max_position_embeddings == config.max_seq_len
    assert config.intermediate_size == tiny_config().dense_width
    assert config.num_hidden_layers == 1 + 5 * 2 + 1
    assert OpenMythosConfig(hidden_size=64, num_attention_heads=4).mythos.dim == 64


def test_bad_values_and_an_untied_head_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_heads"):
        OpenMythosConfig(dim=10, n_heads=4)
    with pytest.raises(ConfigError, match="tie_word_embeddings"):
        OpenMythosConfig(tie_word_embeddings=False)
    assert not OpenMythosConfig(tied_head=False).tie_word_embeddings
