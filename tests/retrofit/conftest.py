"""Tiny pretrained models with random weights, as transformers builds and saves them."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn


SIZES = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 3e-3,  # large, so that another one shows
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    try:
        from transformers.utils import logging as talk
    except ImportError:
        yield
        return
    talk.disable_progress_bar()
    talk.set_verbosity(logging.CRITICAL)
    yield
    talk.set_verbosity_warning()


@pytest.fixture
def pretrained(tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """`pretrained(family, edit, **changes)`: a saved model, every parameter shaken, and its folder.

    `edit` are keys of config.json that are written over what transformers says.
    """
    transformers = pytest.importorskip("transformers")
    kinds = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}

    def make(
        family: str = "llama", edit: dict[str, Any] | None = None, **changes: Any
    ) -> tuple[Any, Path]:
        kind = kinds[family]
        changes = {"rope_parameters": {"rope_type": "default", "rope_theta": 523.0}, **changes}
        config = getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        with torch.no_grad():
            for p in model.parameters():
                nn.init.normal_(p, std=0.3)
                if p.ndim == 1:
                    p += 1.0
        folder = tmp_path / family
        model.save_pretrained(folder)
        if edit:
            told = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**told, **edit}))
        return model, folder

    return make
