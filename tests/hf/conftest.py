"""A tiny network as transformers has it; everything here is skipped where transformers is not."""

import logging
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest


class Missing(pytest.Module):
    """A file of tests that cannot even be imported."""

    def collect(self) -> NoReturn:
        pytest.skip("transformers, of the extra [hf]", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    if find_spec("transformers") is None:
        return Missing.from_parent(parent, path=module_path)
    return None


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No bars, no advice, and remote code in a folder of the test's own."""
    from transformers import dynamic_module_utils
    from transformers.utils import logging as talk

    talk.disable_progress_bar()
    talk.set_verbosity(logging.CRITICAL)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "remote"))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    yield
    talk.set_verbosity_warning()


@pytest.fixture
def hf_model(tiny_config: Callable[..., Any], randomised: Callable[..., Any]) -> Callable[..., Any]:
    """`hf_model(**changes)`: a tiny network, shaken, in evaluation mode."""
    from open_mythos.hf.config import OpenMythosConfig
    from open_mythos.hf.modeling import OpenMythosForCausalLM

    own = ("num_loops", "exit", "use_cache")

    def make(**changes: Any) -> Any:
        kept = {name: changes.pop(name) for name in own if name in changes}
        config = OpenMythosConfig.of(tiny_config(**changes), **kept)
        return randomised(OpenMythosForCausalLM(config)).eval()

    return make
