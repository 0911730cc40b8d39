"""Which networks the plugin takes, and what of the others it cannot hold."""

from typing import Protocol

from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import ConfigError


class Ranks(Protocol):
    """What is asked of vLLM's parallel_config."""

    tensor_parallel_size: int
    pipeline_parallel_size: int


FIELDS = {
    "attn_type": ("gqa", "vLLM caches keys and values here, not latents"),
    "core_ffn": ("dense", "routed experts are not divided as vLLM's are"),
    "readout": ("last", "halting would leave a token at a depth of its own"),
    "kv": ("per_loop", "every loop has an attention of its own"),
    "halted": ("continue", "keys of halted positions would have to stay"),
    "head_width": (None, "vLLM takes a head's width to be hidden_size / heads"),
}


def check_fit(cfg: MythosConfig) -> None:
    """Refuse a network that the plugin cannot hold.

    Raises:
        ConfigError: Naming the field, its value, the one that fits and why.
    """
    for name, (fitting, why) in FIELDS.items():
        value = getattr(cfg, name)
        if value != fitting:
            raise ConfigError(
                f"{name} is {value!r}; the vLLM plugin takes {fitting!r} alone ({why}): use "
                "`open-mythos serve` for this model"
            )


def check_start(exit: object, quantised: object, ranks: Ranks) -> None:
    """Refuse what was asked of vLLM beside the network.

    Args:
        exit: The config's exit; None runs every loop.
        quantised: vLLM's quantisation; None keeps the weights.
        ranks: How vLLM divides a model.

    Raises:
        ConfigError: Naming what was asked.
    """
    if exit is not None:
        raise ConfigError(f"exit is {exit!r}; under vLLM every token runs all loops: leave it out")
    if quantised is not None:
        raise ConfigError("quantization is set; the vLLM plugin keeps weights: leave it out")
    parts = {n: getattr(ranks, n) for n in ("tensor_parallel_size", "pipeline_parallel_size")}
    for name, value in parts.items():
        if value != 1:
            raise ConfigError(f"{name} is {value}; the vLLM plugin is for one GPU: leave it at 1")
