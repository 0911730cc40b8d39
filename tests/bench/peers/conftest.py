"""A stand-in for transformers: it keeps what it is asked for, and builds something small."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from open_mythos.bench.peers import hugging_face


class Settings:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Small(nn.Module):
    """One table, with the call form of a causal language model."""

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(settings.vocab_size, settings.vocab_size)

    def forward(self, input_ids: torch.Tensor, **kept: Any) -> Any:
        logits = self.table(input_ids)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), input_ids.flatten())
        return SimpleNamespace(logits=logits, loss=loss, past_key_values=kept)


class Auto:
    @staticmethod
    def from_config(settings: Any, dtype: torch.dtype, attn_implementation: str) -> nn.Module:
        assert attn_implementation == "sdpa"
        return Small(settings).to(dtype)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    stub = SimpleNamespace(
        LlamaConfig=Settings,
        MixtralConfig=Settings,
        DeepseekV3Config=Settings,
        AutoModelForCausalLM=Auto,
    )
    monkeypatch.setattr(hugging_face, "installed", lambda: True)
    monkeypatch.setattr(hugging_face, "import_module", lambda name: stub)
    return stub
