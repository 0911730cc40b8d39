"""vLLM is told of our architecture once, under the name that an export writes."""

import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from open_mythos.errors import MissingExtraError
from open_mythos.vllm.register import ARCHITECTURE, NETWORK, register


ROOT = Path(__file__).resolve().parents[2]


class Registry:
    """vLLM's, as far as it is asked."""

    def __init__(self) -> None:
        self.models: dict[str, str] = {}

    def get_supported_archs(self) -> set[str]:
        return set(self.models)

    def register_model(self, name: str, where: str) -> None:
        assert name not in self.models
        self.models[name] = where


def test_registering_twice_is_registering_once(monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers, of the extra [hf]")
    stand_in: Any = ModuleType("vllm")
    stand_in.ModelRegistry = Registry()
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    register()
    register()
    assert stand_in.ModelRegistry.models == {ARCHITECTURE: NETWORK}
    assert transformers.AutoConfig.for_model("open_mythos").model_type == "open_mythos"


def test_the_names_lead_where_they_say() -> None:
    module, name = NETWORK.split(":")
    assert hasattr(import_module(module), name)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (entry,) = project["entry-points"]["vllm.general_plugins"].values()
    where, function = entry.split(":")
    assert getattr(import_module(where), function) is register


def test_without_vllm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match=r"open-mythos\[vllm\]"):
        register()
