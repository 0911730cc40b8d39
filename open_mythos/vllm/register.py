"""What vLLM calls before it looks for a model: an entry point of the group vllm.general_plugins."""

from importlib import import_module
from typing import Any

from open_mythos.errors import MissingExtraError


ARCHITECTURE = "OpenMythosForCausalLM"  # as config.json of an export says
NETWORK = "open_mythos.vllm.network:OpenMythosForVLLM"


def register() -> None:
    """Let vLLM find our config and our network; may be called again.

    Raises:
        MissingExtraError: If vLLM is not there.
    """
    try:
        vllm: Any = import_module("vllm")
    except ImportError as error:
        raise MissingExtraError("vllm", "vllm", "the plugin for vLLM") from error
    import_module("open_mythos.hf.auto")
    if ARCHITECTURE not in vllm.ModelRegistry.get_supported_archs():
        vllm.ModelRegistry.register_model(ARCHITECTURE, NETWORK)
