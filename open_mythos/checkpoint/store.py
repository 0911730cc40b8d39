"""A model on disk: a folder of model.safetensors and config.json, whole, and checked when read."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from open_mythos.checkpoint.files import (
    MANIFEST,
    TEMPORARY,
    atomic_folder,
    check_file,
    read_json,
    sync_path,
    sync_tree,
    write_json,
    write_manifest,
)
from open_mythos.checkpoint.shard_files import INDEX_FILE, SHARDS, consolidate, of_model
from open_mythos.config.mythos import FIELDS, MythosConfig
from open_mythos.errors import CheckpointError, DamagedError
from open_mythos.ops.backend import plain


SCHEMA_VERSION = 1
ARCHITECTURE = "open_mythos"
CONFIG_FILE = "config.json"
MODEL_FILE = "model.safetensors"
OWN_FILES = (MODEL_FILE, CONFIG_FILE, MANIFEST)
# Metadata key: which names were one tensor with another (a tied head), and are stored once.
ALIASES = "open_mythos.aliases"
# How transformers numbers the parts of weights too large for one file, and what it puts before the
# names of a network that a class of its own holds.
HUB_INDEX = "model.safetensors.index.json"
HUB_PREFIX = "model."
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


# -- tensors -------------------------------------------------------------------------------------


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors as one safetensors file.

    Two names of one tensor (a head tied to the embedding) are stored once and read back as one.
    Views that overlap in part are stored apart.

    Raises:
        CheckpointError: If a tensor is of a class of somebody else's, as quantised weights are.
        OSError: If the disk refuses, a full one included.
    """
    kept, aliases = without_aliases(tensors)
    notes = {"format": "pt", **(metadata or {})}
    if aliases:
        notes[ALIASES] = json.dumps(aliases, sort_keys=True)
    try:
        save_file(kept, str(path), metadata=notes)
    except SafetensorError as error:  # it wraps what the system says
        raise OSError(f"{path} cannot be written: {error}") from None


def without_aliases(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split names into tensors ready to write and second names, each with the first it repeats."""
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    storages: set[tuple[str, int]] = set()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if not plain(tensor):
            raise CheckpointError(
                f"{name} is a {type(tensor).__name__}, which safetensors cannot hold; save the "
                "model as it was before it was quantised, and quantise it when it is loaded"
            )
        storage = (str(tensor.device), tensor.untyped_storage().data_ptr())
        view = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and view in seen:
            aliases[name] = seen[view]
            continue
        seen[view] = name
        shared = storage in storages
        storages.add(storage)
        kept[name] = tensor.clone().contiguous() if shared else tensor.contiguous()
    return kept, aliases


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of one safetensors file on the CPU, tied ones tied again, and its metadata.

    Raises:
        DamagedError: If the file is missing, is no safetensors file, or is truncated.
        CheckpointError: If the system does not let it be read, or it is a pickle.
    """
    target = Path(path)
    refuse_pickle(target)
    if not target.is_file():
        raise DamagedError(f"{target} does not exist")
    try:
        with safe_open(str(target), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            # Cloned: views into the file lie at odd addresses, where other kernels run, and the
            # same weights would give logits that differ in the last bit.
            names = file.keys()
            tensors: dict[str, Tensor] = {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as error:
        raise DamagedError(
            f"{target} is no safetensors file, or is truncated ({error}); "
            "use another copy or an earlier checkpoint"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{target} cannot be read ({error}); look at its permissions and at the disk"
        ) from None
    for name, first in json.loads(metadata.pop(ALIASES, "{}")).items():
        tensors[name] = tensors[first]
    return tensors, metadata


def refuse_pickle(path: Path) -> None:
    """Refuse by its name a file that only unpickling, which runs code, could read.

    Raises:
        CheckpointError: Naming the two ways to bring such a file over.
    """
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"{path} is a pickle, which can run code when read; bring it over once with "
            f"`open-mythos convert {path} FOLDER`, or read it with "
            "open_mythos.load_legacy"
        )


# -- models --------------------------------------------------------------------------------------


def save_model(folder: str | Path, config: MythosConfig, state: Mapping[str, Tensor]) -> None:
    """Write a model folder: the old one, if any, stands until the new one is complete.

    A folder that holds anything else too (a tokenizer, a README, a whole project) keeps it: its
    files are then replaced one by one, the manifest last, so that a crash in between is noticed
    on reading.

    Raises:
        CheckpointError: If the path is a file.
    """
    target = Path(folder)
    if not target.is_dir() or {p.name for p in target.iterdir()} <= set(OWN_FILES):
        with atomic_folder(target) as fresh:
            write_model(fresh, config, state)
            write_manifest(fresh)
        return
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=target) as name:
        aside = Path(name)
        write_model(aside, config, state)
        write_manifest(aside)
        sync_tree(aside)
        for own in OWN_FILES:
            (aside / own).replace(target / own)
    sync_path(target)


def write_model(folder: Path, config: MythosConfig, state: Mapping[str, Tensor]) -> None:
    """Write the two files of a model into a folder whose making the caller guards."""
    write_tensors(folder / MODEL_FILE, state)
    write_config(folder, config, stored_dtype(state))


def write_config(folder: Path, config: MythosConfig, dtype: str) -> None:
    """Write config.json alone, beside weights that lie elsewhere in the folder."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "architecture": ARCHITECTURE,
        "model_type": ARCHITECTURE,  # the name under which transformers looks it up
        "torch_dtype": dtype,
        "config": config.to_dict(),
    }
    write_json(folder / CONFIG_FILE, document)


def stored_dtype(state: Mapping[str, Tensor]) -> str:
    """The floating dtype of most numbers in `state`, for people who read config.json."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in state.values():
        if tensor.is_floating_point():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel()
    return str(max(sizes, key=lambda d: sizes[d])).removeprefix("torch.") if sizes else "none"


def load_model(folder: str | Path) -> tuple[MythosConfig, dict[str, Tensor]]:
    """The config and the weights of a model folder, on the CPU; sharded ones are put together.

    The folder may be one that transformers wrote (`open_mythos.hf`).

    Raises:
        CheckpointError: If the path is a pickle, a file is missing, truncated or altered, the
            architecture is another, or a newer version of this library wrote it.
        ConfigError: If the stored config describes no network.
    """
    root = Path(folder)
    refuse_pickle(root)
    if not root.is_dir():
        raise CheckpointError(
            f"{root} is no folder; give one that holds {MODEL_FILE} and {CONFIG_FILE}"
        )
    if not (root / MODEL_FILE).is_file():
        for path in sorted(root.iterdir()):
            refuse_pickle(path)
    config = read_config(root)
    if not (root / MODEL_FILE).is_file() and (root / INDEX_FILE).is_file():
        check_file(root, INDEX_FILE)
        for path in root.glob(SHARDS):
            check_file(root, path.name)
        return config, consolidate(root, of_model)
    tensors: dict[str, Tensor] = {}
    for name in _weight_files(root):
        tensors |= read_tensors(check_file(root, name))[0]
    return config, {name.removeprefix(HUB_PREFIX): tensor for name, tensor in tensors.items()}


def _weight_files(root: Path) -> list[str]:
    """The files of a folder that hold its weights between them."""
    if (root / MODEL_FILE).is_file() or not (root / HUB_INDEX).is_file():
        return [MODEL_FILE]
    document = read_json(check_file(root, HUB_INDEX))
    try:
        return sorted(set(document["weight_map"].values()))
    except (KeyError, TypeError, AttributeError):
        raise DamagedError(f"{root / HUB_INDEX} is no index of weights; use another copy") from None


def read_config(folder: str | Path) -> MythosConfig:
    """The config of a model folder alone, without touching its weights.

    Raises:
        CheckpointError: If config.json is missing, altered, of another architecture or newer.
        ConfigError: If what it says describes no network.
    """
    path = check_file(folder, CONFIG_FILE)
    document = read_json(path)
    if _of_transformers(document):
        return MythosConfig.from_dict({k: document[k] for k in FIELDS if k in document})
    if not isinstance(document, dict) or document.get("architecture") != ARCHITECTURE:
        found = document.get("architecture") if isinstance(document, dict) else document
        raise CheckpointError(
            f"{path} is the config of another architecture ({found!r}, not {ARCHITECTURE!r}); "
            "open-mythos convert reads the formats it knows"
        )
    check_schema(path, document)
    values = document.get("config")
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} has no 'config' table; it is damaged, use another copy")
    return MythosConfig.from_dict(values)


def _of_transformers(document: Any) -> bool:
    """Whether a config.json is one that transformers wrote of our network, its fields flat."""
    if not isinstance(document, dict) or "architecture" in document:
        return False
    return bool(document.get("model_type") == ARCHITECTURE)


def check_schema(path: Path, document: Mapping[str, Any]) -> None:
    """Refuse a document that a newer version of this library wrote.

    Raises:
        CheckpointError: Naming both versions, or the version that is none.
    """
    version = document.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CheckpointError(
            f"{path} has schema_version {version!r}; it must be an int of 1 or more"
        )
    if version > SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has schema_version {version}, this open-mythos reads up to {SCHEMA_VERSION}; "
            "a newer release wrote it: pip install --upgrade open-mythos"
        )
