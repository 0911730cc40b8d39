"""The public names: complete, resolvable, lazy, and the same wherever they are imported from."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import open_mythos


# Frozen: a name leaves this list only with a major version.
SEED = """
    OpenMythos MythosConfig RMSNorm GQAttention MLAttention Expert MoEFFN LoRAAdapter
    TransformerBlock LTIInjection ACTHalting RecurrentBlock precompute_rope_freqs apply_rope
    loop_index_embedding
"""
PRESETS = (
    "mythos_nano mythos_mini mythos_small "
    "mythos_1b mythos_3b mythos_10b mythos_50b mythos_100b mythos_500b mythos_1t"
)
OWN = "MythosTokenizer load_foreign load_legacy ForwardOutput KVCache __version__"
WRITING = "SamplingParams stream_text Engine EngineConfig"
PUBLIC = sorted(f"{SEED} {PRESETS} {OWN} {WRITING}".split())

FACES = {
    "main": SEED.split(),
    "variants": PRESETS.split(),
    "tokenizer": ["MythosTokenizer", "DEFAULT_MODEL_ID"],
    "moda": ["MoDAConfig", "MoDAModel", "MoDACache"],
}


def test_all_is_the_frozen_list() -> None:
    assert sorted(open_mythos.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(open_mythos))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(open_mythos, name) is not None


def test_star_import_brings_every_public_name() -> None:
    space: dict[str, object] = {}
    exec("from open_mythos import *", space)  # noqa: S102 -- a star import needs a module's scope
    assert set(PUBLIC) <= set(space)


@pytest.mark.parametrize(("face", "name"), [(f, n) for f, names in FACES.items() for n in names])
def test_a_face_gives_the_same_object_as_the_package(face: str, name: str) -> None:
    value = getattr(importlib.import_module(f"open_mythos.{face}"), name)
    assert value is getattr(open_mythos, name, value)


def test_the_type_checkers_names_are_the_lazy_ones() -> None:
    source = Path(open_mythos.__file__).read_text(encoding="utf-8")
    guard = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    declared = {
        alias.name: node.module
        for node in guard.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {name: f"open_mythos.{module}" for name, module in open_mythos._HOME.items()}
    assert declared == lazy


def test_importing_the_package_or_a_config_needs_no_torch() -> None:
    code = (
        "import sys, open_mythos, open_mythos.cli.main, open_mythos.cli.inspect\n"
        "open_mythos.mythos_1t(), open_mythos.MythosConfig()\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="mythos_7b"):
        _ = open_mythos.mythos_7b
    with pytest.raises(ImportError):
        exec("from open_mythos import mythos_7b", {})  # noqa: S102
