"""What a foreign checkpoint holds: settings and weights, each asked for once and by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_mythos.checkpoint.files import read_json
from open_mythos.checkpoint.store import HUB_INDEX, MODEL_FILE, PICKLES, read_tensors
from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import CheckpointError, DamagedError


CONFIG_FILE = "config.json"
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Settings:
    """The values of a foreign config.json.

    Attributes:
        values: What it says.
        family: The name of the design, for messages.
    """

    values: Mapping[str, Any]
    family: str

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 0.

        Raises:
            CheckpointError: If it is none, or missing without a default.
        """
        value = self._said(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise CheckpointError(f"config.json says {key}={value!r}; it must be a whole number")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A number.

        Raises:
            CheckpointError: If it is none, or missing without a default.
        """
        value = self._said(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise CheckpointError(f"config.json says {key}={value!r}; it must be a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A switch; absent is the default.

        Raises:
            CheckpointError: If it is neither true nor false.
        """
        value = self._said(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"config.json says {key}={value!r}; it must be true or false")
        return value

    def must(self, key: str, *allowed: Any, absent: Any) -> None:
        """Refuse a checkpoint whose equations are others than ours.

        Args:
            key: The setting.
            allowed: Values with which the equations match.
            absent: What the family takes where config.json does not say.

        Raises:
            CheckpointError: Naming the key, its value and those that can be loaded.
        """
        value = self.values.get(key, absent)
        if value not in allowed:
            known = " or ".join(repr(each) for each in allowed)
            default = "" if key in self.values else f" (the default of {self.family})"
            raise CheckpointError(
                f"{key} is {value!r}{default}, for which this library has no equations: of "
                f"{self.family}, it loads {key}={known}"
            )

    def _said(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None and default is None:
            raise CheckpointError(
                f"config.json lacks {key!r}, which {self.family} checkpoints have"
            )
        return default if value is None else value


@dataclass
class Weights:
    """The tensors of a foreign checkpoint.

    Attributes:
        tensors: Name -> tensor.
        taken: Names that were asked for.
    """

    tensors: Mapping[str, Tensor]
    taken: set[str] = field(default_factory=set)

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor of that name, which must be of that shape.

        Raises:
            CheckpointError: Naming the key, and both shapes where that is what differs.
        """
        if name not in self.tensors:
            raise CheckpointError(
                f"the checkpoint lacks {name!r}; it is damaged, or of another network than its "
                "config.json says"
            )
        tensor = self.tensors[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{name} has shape {tuple(tensor.shape)}, config.json asks for {shape}; the "
                "checkpoint is damaged, or of another network than its config.json says"
            )
        self.taken.add(name)
        return tensor

    def pass_over(self, *names: str) -> None:
        """Count as taken what can be formed anew, a table of angles say."""
        self.taken.update(names)

    def close(self) -> None:
        """Refuse what nobody asked for: it would be a part of the network that is left out.

        Raises:
            CheckpointError: Naming the first of those keys, in their order.
        """
        left = sorted(set(self.tensors) - self.taken)
        if left:
            raise CheckpointError(
                f"the checkpoint has {len(left)} weights that this library has no part for, "
                f"{left[0]!r} first; without them the network would be another"
            )


def read_settings(folder: Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
        CheckpointError: If the folder or the file is missing, or it is no table.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG_FILE}; give the folder of a checkpoint")
    values = read_json(folder / CONFIG_FILE)
    if not isinstance(values, dict):
        raise CheckpointError(f"{folder / CONFIG_FILE} is no table; use another copy")
    return values


def read_weights(folder: Path) -> Weights:
    """All weights of a folder, of one safetensors file or of several with an index.

    Raises:
        CheckpointError: If there are none, or only pickles, which could run code when read.
    """
    if (folder / MODEL_FILE).is_file():
        return Weights(read_tensors(folder / MODEL_FILE)[0])
    if (folder / HUB_INDEX).is_file():
        try:
            names = sorted(set(read_json(folder / HUB_INDEX)["weight_map"].values()))
        except (KeyError, TypeError, AttributeError):
            raise DamagedError(f"{folder / HUB_INDEX} is no index of weights") from None
        tensors: dict[str, Tensor] = {}
        for name in names:
            tensors |= read_tensors(folder / str(name))[0]
        return Weights(tensors)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
    if pickles:
        raise CheckpointError(
            f"{folder / pickles[0]} is a pickle, which can run code when read; write its tensors "
            f"as {MODEL_FILE} first, in a place that you can afford to lose (docs/convert.md)"
        )
    raise CheckpointError(f"{folder} holds no {MODEL_FILE}")


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys for pairs (2i, 2i + 1), from rows for pairs (i, i + d/2).

    Which channels rotary embedding turns together is a matter of order: a score is a sum over
    pairs, whichever way they lie.

    Args:
        weight: (heads * d, ...).
        heads: Heads in it.
    """
    halves = weight.unflatten(0, (heads, 2, -1))
    ordered: Tensor = halves.transpose(1, 2).flatten(0, 2)
    return ordered


def no_gate(like: Tensor, dim: int) -> dict[str, Tensor]:
    """The halting probability of a network that has none: never asked, zero."""
    return {
        "recurrent.act.halt.weight": torch.zeros(1, dim, dtype=like.dtype),
        "recurrent.act.halt.bias": torch.zeros(1, dtype=like.dtype),
    }


def head(given: Weights, cfg: MythosConfig, table: str) -> dict[str, Tensor]:
    """The head's weight where it is not the embedding, which is their tensor `table`.

    Raises:
        CheckpointError: If a tied head is stored beside the embedding and differs from it.
    """
    if not cfg.tied_head:
        return {"head.weight": given.take(HEAD, cfg.vocab_size, cfg.dim)}
    if HEAD in given.tensors and not torch.equal(
        given.take(HEAD, cfg.vocab_size, cfg.dim), given.tensors[table]
    ):
        raise CheckpointError(f"{HEAD} differs from {table}, but config.json says that it is tied")
    return {}


def layer_names(cfg: MythosConfig) -> list[tuple[str, str]]:
    """Of every layer in the order of a pass, its name in Huginn's and Parcae's lists, and ours."""
    prelude = [(f"prelude.{i}", f"prelude.{i}") for i in range(cfg.prelude_layers)]
    core = [(f"core_block.{i}", core_name(i)) for i in range(cfg.core_layers)]
    coda = [(f"coda.{i}", f"coda.{i}") for i in range(cfg.coda_layers)]
    return prelude + core + coda


def core_name(layer: int) -> str:
    """Where the core's layer `layer`, from 0, lies among our names."""
    return "recurrent.block" if layer == 0 else f"recurrent.deeper.{layer - 1}"
