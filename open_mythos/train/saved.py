"""A run's state on disk: written by one process whole, or by several ranks each its part."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from open_mythos.checkpoint.files import check_folder, read_json, write_json, write_manifest
from open_mythos.checkpoint.shard_files import INDEX_FILE
from open_mythos.checkpoint.store import (
    SCHEMA_VERSION,
    check_schema,
    load_model,
    read_tensors,
    stored_dtype,
    write_config,
    write_model,
    write_tensors,
)
from open_mythos.data.tokenizer import Tokenizer, save_tokenizer
from open_mythos.errors import CheckpointError, DamagedError
from open_mythos.parallel.ranks import ALONE, Ranks
from open_mythos.train.recipe import Recipe
from open_mythos.train.state import RNG, STATE_FILE, TrainState


if TYPE_CHECKING:
    from open_mythos.checkpoint.sharded import Saving

OPTIMIZER_FILE = "optimizer.safetensors"


def write_state(
    folder: Path, state: TrainState, recipe: Recipe, tokenizer: Tokenizer | None = None
) -> None:
    """Fill a folder, whose making the caller guards, with the state of a run of one process.

    The tokenizer goes with it, so that the folder alone is enough to generate from.
    """
    write_model(folder, recipe.model, state.model.state_dict())
    write_tensors(folder / OPTIMIZER_FILE, state.tensors())
    write_json(folder / STATE_FILE, {"schema_version": SCHEMA_VERSION, **state.counters()})
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    write_manifest(folder)


def load_checkpoint(folder: Path, state: TrainState, ranks: Ranks = ALONE) -> None:
    """Put a checkpoint into a state built from the same recipe, by however many ranks.

    Everything is read and checked before anything is changed, the shapes of weights excepted; where
    ranks share the work, the first one checks.

    Raises:
        DamagedError: If a file is missing or altered, or cannot be parsed.
        CheckpointError: If a file is newer than this library, or of another model.
    """
    document = ranks.first_does(lambda: checked_counters(folder))
    if ranks.world > 1 or sharded(folder):
        load_shards(folder, state, ranks)
        state.load_counters(document)
        return
    _, weights = load_model(folder)
    tensors, _ = read_tensors(folder / OPTIMIZER_FILE)
    try:
        state.model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} holds another model's weights: {error}") from None
    state.load_counters(document)
    state.load_tensors(tensors)


def checked_counters(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint whose every file is as it was written.

    Raises:
        DamagedError: If one is not.
        CheckpointError: If this library is too old for it.
    """
    check_folder(folder)
    document = read_json(folder / STATE_FILE)
    if not isinstance(document, dict):
        raise DamagedError(f"{folder / STATE_FILE} is no table; use an earlier checkpoint")
    check_schema(folder / STATE_FILE, document)
    return document


def save_shards(
    target: Path,
    state: TrainState,
    recipe: Recipe,
    tokenizer: Tokenizer | None,
    ranks: Ranks,
) -> "Saving":
    """Begin to write the state of all ranks as one folder; every rank calls this together.

    Back once the values are copied to host memory, so that training may go on.
    """
    # DCP takes a second to import, which runs of one process are spared.
    from open_mythos.checkpoint.sharded import save_sharded  # noqa: PLC0415 -- see above

    pieces = state.spread.pieces(state.model, own_rng(state.tensors(), ranks.rank))
    document = {"schema_version": SCHEMA_VERSION, **state.counters()}
    dtype = stored_dtype(dict(state.model.named_parameters()))

    def fill(folder: Path) -> None:
        write_config(folder, recipe.model, dtype)
        write_json(folder / STATE_FILE, document)
        if tokenizer is not None:
            save_tokenizer(tokenizer, folder)

    return save_sharded(target, pieces, fill=fill, group=ranks.writers, wait=False)


def load_shards(folder: Path, state: TrainState, ranks: Ranks) -> None:
    """Put the tensors of a checkpoint, written by any number of ranks, into this rank's state.

    Generators of a rank that the saving run did not have begin anew.

    Raises:
        DamagedError: If a file is missing or cannot be read.
        CheckpointError: If the checkpoint is of another model.
    """
    # DCP takes a second to import, which runs of one process are spared.
    from open_mythos.checkpoint.sharded import load_sharded  # noqa: PLC0415 -- see above

    tensors = state.spread.blanks(state.model, folder)
    load_sharded(folder, state.spread.pieces(state.model, tensors))
    state.load_tensors(common_rng(tensors, ranks.rank))


def sharded(folder: Path) -> bool:
    """Whether a checkpoint was written by several ranks."""
    return (folder / INDEX_FILE).is_file()


def own_rng(tensors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The same with the generators' states under this rank's name: "rng/3/cpu"."""
    before, after = f"{RNG}/", f"{RNG}/{rank}/"
    return {
        after + name.removeprefix(before) if name.startswith(before) else name: tensor
        for name, tensor in tensors.items()
    }


def common_rng(tensors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The same with this rank's generators under the names that a state knows, others left out.

    A checkpoint of a single process has no ranks in its names; it is the first rank's.
    """
    before, mine = f"{RNG}/", f"{RNG}/{rank}/"
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith(before):
            found[name] = tensor
        elif name.startswith(mine):
            found[before + name.removeprefix(mine)] = tensor
        elif rank == 0 and name.count("/") == 1:
            found[name] = tensor
    return found
