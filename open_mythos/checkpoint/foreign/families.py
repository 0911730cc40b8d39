"""The families of looped models that can be brought over, by what their config.json says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from open_mythos.checkpoint.foreign import huginn, ouro, parcae
from open_mythos.checkpoint.foreign.source import Settings, read_settings, read_weights
from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CheckpointError, ConfigError, did_you_mean


FAMILIES = {"huginn": huginn, "ouro": ouro, "parcae": parcae}
# Under which keys a config.json says what it is of.
NAMED = ("model_type", "model_class_name", "_class_name")


def family_of(values: Mapping[str, Any]) -> str:
    """The family that a config.json names.

    Raises:
        CheckpointError: If it is none of ours.
    """
    named = [values.get(key) for key in NAMED] + list(values.get("architectures") or [])
    for family, module in FAMILIES.items():
        if set(module.MODEL_TYPES) & {name for name in named if isinstance(name, str)}:
            return family
    found = ", ".join(repr(name) for name in named if name is not None) or "no model type"
    raise CheckpointError(
        f"config.json is of {found}, none of {', '.join(FAMILIES)}; if it is one of these under "
        "another name, say which (--from)"
    )


def read_foreign(
    folder: Path, family: str | None = None
) -> tuple[str, MythosConfig, dict[str, Tensor]]:
    """The family, the config and the weights under our names, of a checkpoint's folder.

    Args:
        folder: Holds config.json and safetensors.
        family: One of `FAMILIES`; None is what config.json says.

    Raises:
        CheckpointError: If its equations are not ours, or a file or weight is missing, damaged, or
            left over: the key is named.
    """
    values = read_settings(folder)
    family = family_of(values) if family is None else family
    if family not in FAMILIES:
        raise CheckpointError(f"there is no family {family!r}; {did_you_mean(family, FAMILIES)}")
    module, said = FAMILIES[family], Settings(values, family)
    try:
        cfg = module.config(said)
    except ConfigError as error:
        raise CheckpointError(f"{folder} describes no network of ours: {error}") from error
    given = read_weights(folder)
    state = module.weights(said, given, cfg)
    given.close()
    return family, cfg, state
