"""exit.json: the exit that was calibrated for a model, beside its weights."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_mythos.checkpoint.files import MANIFEST, digest, read_json, write_json
from open_mythos.errors import ConfigError, DamagedError
from open_mythos.nn.loop.exits.criterion import Criterion
from open_mythos.nn.loop.exits.registry import exit_kind


EXIT_FILE = "exit.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StoredExit:
    """A calibrated exit, and what was promised and measured.

    Attributes:
        exit: With its threshold.
        n_loops: Loops at most, with which it was calibrated.
        budget: Loss of quality that was allowed, relative to the full depth.
        metric: What the budget is of: "loss" or "accuracy".
        measured: Plain values: the data, the weights' dtype, the score with the exit and at full
            depth, mean loops.
    """

    exit: Criterion
    n_loops: int
    budget: float
    metric: str
    measured: dict[str, Any] = field(default_factory=dict)


def write_exit(folder: str | Path, stored: StoredExit) -> Path:
    """Write exit.json beside a model's weights, which it is bound to; its path."""
    path = Path(folder) / EXIT_FILE
    document = {
        "schema_version": SCHEMA_VERSION,
        "weights": weights_of(folder),
        "exit": stored.exit.name,
        "threshold": stored.exit.threshold,
        "n_loops": stored.n_loops,
        "budget": stored.budget,
        "metric": stored.metric,
        "measured": stored.measured,
    }
    write_json(path, document)
    return path


def read_exit(folder: str | Path) -> StoredExit | None:
    """The exit stored beside a model; None if there is none, or the weights are others by now.

    An exit of a name that is registered elsewhere only, in the code of who calibrated it, is none.

    Raises:
        DamagedError: If the file is not as it was written.
    """
    path = Path(folder) / EXIT_FILE
    if not path.is_file():
        return None
    document = read_json(path)
    if not isinstance(document, dict):
        raise DamagedError(f"{path} holds no table; delete it, and calibrate again")
    if document.get("weights") != weights_of(folder):
        return None
    try:
        kind = exit_kind(document["exit"])
    except ConfigError:
        return None
    except KeyError as error:
        raise DamagedError(f"{path} lacks {error}; delete it, and calibrate again") from None
    try:
        return StoredExit(
            exit=kind(document["threshold"]),
            n_loops=document["n_loops"],
            budget=document["budget"],
            metric=document["metric"],
            measured=document.get("measured", {}),
        )
    except (KeyError, ConfigError) as error:
        raise DamagedError(f"{path}: {error}; delete it, and calibrate again") from None


def weights_of(folder: str | Path) -> str | None:
    """A name for the weights in a folder, the hash of its manifest; None where it has none."""
    path = Path(folder) / MANIFEST
    return digest(path) if path.is_file() else None


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """A name for weights in memory: equal for equal names, kinds, shapes and bytes alone."""
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(plain.view(torch.uint8).numpy().data)
    return found.hexdigest()
