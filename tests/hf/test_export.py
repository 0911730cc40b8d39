"""What is exported is this library's own code, and loads where the library is not."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.dynamic_module_utils import get_imports, get_relative_import_files
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.errors import InputError
from open_mythos.hf.card import Story
from open_mythos.hf.export import AUTO_MAP, export_model, flat, remote_sources
from open_mythos.hf.modeling import OpenMythosForCausalLM
from open_mythos.model.mythos import OpenMythos


class Ban:
    """An import hook after which there is no open_mythos."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == "open_mythos":
            raise ImportError(f"{name} is not installed")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as if the library were not installed."""
    remote_sources()  # kept from here on; nobody can read them where the library is not
    for name in [n for n in sys.modules if n.split(".")[0] == "open_mythos"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Ban(), *sys.meta_path])
    for known in (CONFIG_MAPPING, AutoModelForCausalLM._model_mapping):  # what test_auto registers
        monkeypatch.setattr(known, "_extra_content", {})
    yield
    for name in [n for n in sys.modules if n.startswith("transformers_modules")]:
        del sys.modules[name]


def network(tiny_config: Any, randomised: Any, **changes: Any) -> OpenMythos:
    return randomised(OpenMythos(tiny_config(vocab_size=257, **changes))).eval()


def test_every_file_is_our_own_with_other_imports() -> None:
    for name, text in remote_sources().items():
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1
                target = node.module or node.names[0].name
                assert f"{target}.py" in remote_sources(), f"{name} needs {target}"
            elif isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] != "open_mythos"
    assert {f"{place.split('.')[0]}.py" for place in AUTO_MAP.values()} <= remote_sources().keys()
    assert flat("open_mythos.nn.loop.core") == "nn_loop_core"
    assert not any(name.startswith("kernels") for name in remote_sources())
    ours, theirs = import_module("open_mythos.nn.norm"), remote_sources()["nn_norm.py"]
    code = Path(str(ours.__file__)).read_text().splitlines()
    kept = [line for line in code if "open_mythos" not in line]
    assert set(kept) <= set(theirs.splitlines())


def test_transformers_finds_every_file_and_needs_no_package_of_ours(tmp_path: Path) -> None:
    for name, text in remote_sources().items():
        (tmp_path / name).write_text(text)
    found = {Path(p).name for p in get_relative_import_files(tmp_path / "modeling_open_mythos.py")}
    assert found == remote_sources().keys() - {"modeling_open_mythos.py"}
    known = {"torch", "numpy", "safetensors", "transformers", *sys.stdlib_module_names}
    for name in remote_sources():
        assert set(get_imports(tmp_path / name)) <= known, name


@pytest.mark.parametrize(
    "changes", [{}, {"attn_type": "mla", "core_ffn": "dense"}, {"untied_router": True}]
)
@pytest.mark.usefixtures("elsewhere")
def test_it_loads_and_generates_where_the_library_is_not(
    tiny_config: Any, randomised: Any, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = network(tiny_config, randomised, **changes)
    ids = torch.randint(1, 257, (2, 6))
    export_model(model, tmp_path / "a", num_loops=2)
    assert not any(name.split(".")[0] == "open_mythos" for name in sys.modules)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "a", trust_remote_code=True)
    assert type(found).__module__.endswith(".modeling_open_mythos")
    assert torch.equal(found(ids).logits, model(ids, 2))
    got = found.generate(ids, max_new_tokens=4, num_loops=3, do_sample=False, pad_token_id=0)
    assert torch.equal(got, model.generate(ids, 4, 3, 0.0))
    found.train()(ids, labels=ids).loss.backward()  # custom ops too, under a name of their own
    found.save_pretrained(tmp_path / "b")  # by transformers, which copies what it was loaded from
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "b", trust_remote_code=True)
    assert torch.equal(again(ids).logits, found.eval()(ids).logits)
    assert not any(name.split(".")[0] == "open_mythos" for name in sys.modules)


def test_a_registered_class_brings_its_code_along(
    hf_model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = hf_model()
    model.save_pretrained(tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("*.py"))
    monkeypatch.setattr(OpenMythosForCausalLM, "_auto_class", None)
    OpenMythosForCausalLM.register_for_auto_class("AutoModelForCausalLM")
    model.save_pretrained(tmp_path / "coded")
    assert {path.name for path in (tmp_path / "coded").glob("*.py")} == remote_sources().keys()
    assert "auto_map" in (tmp_path / "coded" / "config.json").read_text()
    assert not hasattr(model.config, "auto_map")
    assert OpenMythosForCausalLM._auto_class == "AutoModelForCausalLM"


def test_an_export_is_read_back_with_its_words(
    tiny_config: Any, randomised: Any, tmp_path: Path
) -> None:
    model = network(tiny_config, randomised)
    root = export_model(
        model,
        tmp_path / "tiny",
        tokenizer=ByteTokenizer(),
        story=Story("Tiny", "Plays."),
        code=False,
    )
    assert "# Tiny" in (root / "README.md").read_text()
    assert not list(root.glob("*.py"))
    found = OpenMythosForCausalLM.from_pretrained(root)
    assert found.generation_config.eos_token_id == 256
    ids = torch.randint(257, (1, 5))
    assert torch.equal(OpenMythos.from_pretrained(root)(ids), model(ids))
    with pytest.raises(InputError, match="is a file"):
        export_model(model, root / "README.md")


@pytest.mark.slow
def test_a_pipeline_in_a_fresh_process_without_the_library(
    tiny_config: Any, randomised: Any, tmp_path: Path
) -> None:
    model = network(tiny_config, randomised)
    export_model(model, tmp_path / "tiny", tokenizer=ByteTokenizer())
    prompt = torch.tensor([ByteTokenizer().encode("Once")])
    want = ByteTokenizer().decode(model.generate(prompt, 6, 2, 0.0)[0].tolist())
    code = textwrap.dedent(
        """
        import sys
        sys.path[:] = [p for p in sys.path if p != sys.argv[2]]
        class Ban:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "open_mythos":
                    raise ImportError(name)
        sys.meta_path.insert(0, Ban())
        from transformers import pipeline
        say = pipeline("text-generation", model=sys.argv[1], trust_remote_code=True)
        found = say("Once", max_new_tokens=6, num_loops=2, do_sample=False)
        print("SAID", ascii(found[0]["generated_text"]))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tiny"), str(Path.cwd())],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**__import__("os").environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""},
    )
    assert f"SAID {want!a}" in done.stdout
