"""Auto classes: importing this lets transformers find our networks by their folder or hub id."""

from open_mythos.errors import MissingExtraError


try:
    from transformers import AutoConfig, AutoModelForCausalLM
except ImportError as error:
    raise MissingExtraError("transformers", "hf", "open_mythos.hf") from error

from open_mythos.hf.config import MODEL_TYPE, OpenMythosConfig
from open_mythos.hf.modeling import OpenMythosForCausalLM


__all__ = ["OpenMythosConfig", "OpenMythosForCausalLM"]

AutoConfig.register(MODEL_TYPE, OpenMythosConfig, exist_ok=True)
AutoModelForCausalLM.register(OpenMythosConfig, OpenMythosForCausalLM, exist_ok=True)
