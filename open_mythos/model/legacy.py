"""One call from a file of open-mythos 0.5.0 to a model."""

from pathlib import Path
from typing import Any

from open_mythos.checkpoint.legacy import (
    dense_hidden,
    modernise,
    read_legacy,
    split_legacy,
)
from open_mythos.config.mythos import FIELDS, MythosConfig, Readout
from open_mythos.errors import CheckpointError
from open_mythos.model.mythos import OpenMythos


def load_legacy(
    path: str | Path,
    cfg: MythosConfig | None = None,
    *,
    readout: Readout = "act_sum",
    trusted: bool = False,
) -> OpenMythos:
    """A model from a state dict or training checkpoint of open-mythos 0.5.0, in evaluation mode.

    Args:
        path: The .pt file.
        cfg: The model's config; needed for a bare state dict, which does not carry one. Its dense
            width is taken from the weights.
        readout: "act_sum" reproduces 0.5.0's halting sum, with which such weights were trained;
            "act" is the mean whose weights sum to one.
        trusted: Unpickle code inside the file.

    Raises:
        CheckpointError: If the file cannot be read safely, or does not fit the config.
    """
    path = Path(path)
    state, found = split_legacy(read_legacy(path, trusted=trusted), path)
    if cfg is None:
        if found is None:
            raise CheckpointError(
                f"{path} is a bare state dict without a config; give load_legacy(path, cfg)"
            )
        cfg = _config(found)
    changes: dict[str, Any] = {"readout": readout, "halted": "continue"}
    if (width := dense_hidden(state)) is not None:
        changes["dense_hidden"] = width
    cfg = MythosConfig.from_dict({**cfg.to_dict(), **changes})
    return OpenMythos.from_state(cfg, modernise(state), source=str(path)).eval()


def _config(found: object) -> MythosConfig:
    values = dict(found) if isinstance(found, dict) else vars(found)
    return MythosConfig.from_dict({k: v for k, v in values.items() if k in FIELDS})
