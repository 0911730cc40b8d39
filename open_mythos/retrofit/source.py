"""Source: the folder of a pretrained Llama, Mistral or Qwen, its config checked, its tensors named.

Read without transformers: config.json is plain data, and weights are safetensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from open_mythos.checkpoint.files import read_json
from open_mythos.checkpoint.store import HUB_INDEX, MODEL_FILE, refuse_pickle
from open_mythos.errors import CheckpointError, ConfigError, DamagedError, did_you_mean


# Families whose blocks are ours, and what their configs do not say: biases of queries, keys and
# values; norms of queries and keys. SmolLM, SmolLM2 and TinyLlama call themselves "llama".
FAMILIES: dict[str, dict[str, bool]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"attention_bias": True},
    "qwen3": {"qk_norm": True},
}
# Keys that change the equations, and the only values under which ours are the same.
PLAIN: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),  # Llama's and Qwen3's also bias the output map
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1, 1.0, None),
    "num_experts": (0, None),
    "num_local_experts": (0, None),
    "quantization_config": (None,),
}
SIZES = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "n_heads": "num_attention_heads",
    "dense_hidden": "intermediate_size",
    "max_seq_len": "max_position_embeddings",
}
# What both kinds of config mean where they are silent.
DEFAULT_THETA, DEFAULT_EPS = 10000.0, 1e-6


@dataclass(frozen=True)
class Source:
    """A pretrained model, read as far as its config.

    Attributes:
        folder: Where it lies.
        n_layers: Its blocks.
        fields: What of `MythosConfig` its config fixes.
        files: Name of each tensor -> the file that holds it.
    """

    folder: Path
    n_layers: int
    fields: dict[str, Any]
    files: dict[str, Path]

    def tensor(self, name: str) -> Tensor:
        """One tensor on the CPU, in the dtype in which it is stored.

        Raises:
            CheckpointError: If the weights have none of that name.
            DamagedError: If its file cannot be read.
        """
        if name not in self.files:
            raise CheckpointError(
                f"{self.folder} has no tensor {name!r}, which its config asks for; the download is "
                "not whole, or config.json is of another model"
            )
        try:
            with safe_open(str(self.files[name]), framework="pt") as file:
                found: Tensor = file.get_tensor(name).clone()
        except (SafetensorError, OSError) as error:
            raise DamagedError(f"{self.files[name]} cannot be read ({error})") from None
        return found


def open_source(folder: str | Path) -> Source:
    """Read the config of a Hugging Face folder, and which tensors there are.

    Raises:
        ConfigError: Naming the key that our blocks cannot follow, its value, and those they can.
        CheckpointError: If the folder has no config or no safetensors, or they are damaged.
    """
    root = Path(folder)
    config = read_json(root / "config.json")
    if not isinstance(config, dict):
        raise DamagedError(f"{root / 'config.json'} is no table; use another copy")
    return Source(root, _count(config, "num_hidden_layers"), read_fields(config), _index(root))


def read_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of `MythosConfig` the config of a pretrained model fixes.

    Raises:
        ConfigError: As `open_source` does.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ConfigError(
            f"model_type is {family!r}; {did_you_mean(str(family), FAMILIES)}, whose blocks are "
            "ours"
        )
    for key, allowed in PLAIN.items():
        if key in config and config[key] not in allowed:
            raise ConfigError(
                f"{key} is {config[key]!r}, which a block of ours cannot follow; only "
                f"{allowed[0]!r} can be retrofitted"
            )
    _refuse_windows(config)
    fields: dict[str, Any] = {name: _count(config, key) for name, key in SIZES.items()}
    heads, width = fields["n_heads"], config.get("head_dim")
    fields["n_kv_heads"] = config.get("num_key_value_heads") or heads
    fields["head_width"] = None if width in (None, fields["dim"] / heads) else width
    fields["rope_theta"] = _rope_theta(config)
    fields["norm_eps"] = float(config.get("rms_norm_eps", DEFAULT_EPS))
    fields["tied_head"] = bool(config.get("tie_word_embeddings", False))
    return {**fields, **FAMILIES[family]}


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"config.json says {key} = {value!r}; it must be a whole number above 0")
    return value


def _refuse_windows(config: Mapping[str, Any]) -> None:
    """Refuse attention that does not see the whole past."""
    window = config.get("sliding_window")
    if window is not None and config.get("use_sliding_window", config["model_type"] == "mistral"):
        raise ConfigError(
            f"sliding_window is {window}; blocks of ours see the whole past. Set it to null in "
            "config.json if no text is longer than the window"
        )
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    if kinds:
        raise ConfigError(
            f"layer_types has {sorted(kinds)}; only 'full_attention' can be retrofitted"
        )


def _rope_theta(config: Mapping[str, Any]) -> float:
    """Base of the rotary frequencies, which transformers 5 keeps in a table of its own."""
    for key in ("rope_scaling", "rope_parameters"):
        table = config.get(key) or {}
        kind = table.get("rope_type", table.get("type", "default"))
        if kind != "default" or table.get("partial_rotary_factor", 1) != 1:
            raise ConfigError(
                f"{key} is {table}; scaled or partial rotations are not ours: only the plain "
                "kind ('default') can be retrofitted"
            )
    table = config.get("rope_parameters") or {}
    return float(table.get("rope_theta", config.get("rope_theta", DEFAULT_THETA)))


def _index(root: Path) -> dict[str, Path]:
    """Which file holds each tensor.

    Raises:
        CheckpointError: If there are no safetensors, or one is damaged.
    """
    paths = [root / MODEL_FILE]
    if (root / HUB_INDEX).is_file():
        document = read_json(root / HUB_INDEX)
        named = document.get("weight_map") if isinstance(document, dict) else None
        if not isinstance(named, dict):
            raise DamagedError(f"{root / HUB_INDEX} is no index of weights; use another copy")
        paths = [root / name for name in sorted(set(named.values()))]
    elif not paths[0].is_file():
        for path in sorted(root.iterdir()):
            refuse_pickle(path)
    files: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist; a source needs safetensors")
        try:
            with safe_open(str(path), framework="pt") as file:
                files |= dict.fromkeys(file.keys(), path)
        except SafetensorError as error:
            raise DamagedError(f"{path} is no safetensors file ({error})") from None
    return files
