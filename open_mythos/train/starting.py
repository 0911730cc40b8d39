"""Starting weights: a run that begins where another network ended, and takes its sizes from it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from open_mythos.checkpoint.store import CONFIG_FILE, load_model, read_config
from open_mythos.config.mythos import FIELDS, MythosConfig
from open_mythos.config.overrides import read_yaml, split_override
from open_mythos.data.tokenizer import tokenizer_from_folder
from open_mythos.errors import CheckpointError, ConfigError, InputError
from open_mythos.train.checkpoints import newest_checkpoint
from open_mythos.train.recipe import Recipe


# What says how a network is run or started, not what its weights mean. Tables with a row for each
# of max_loop_iters have shapes, which are compared besides.
FREE = (
    "max_seq_len",
    "max_loop_iters",
    "max_output_tokens",
    "dropout",
    "init_std",
    "embed_init_std",
    "last_norm_init",
    "lti_decay",
)
SETTING = "init_from"


def weights_folder(place: str | Path) -> Path:
    """The folder of the weights that a path names: a model's, a checkpoint's, or a run's newest.

    Raises:
        CheckpointError: If there is nothing to start from.
    """
    folder = Path(place)
    if not folder.is_dir():
        raise CheckpointError(
            f"{SETTING} is {str(place)!r}, which is no folder; give a model, a run, or what "
            "`open-mythos retrofit` wrote"
        )
    return folder if (folder / CONFIG_FILE).is_file() else newest_checkpoint(folder)


def starting_recipe(
    base: Recipe, file: Path | None = None, overrides: Sequence[str] = ()
) -> Recipe:
    """`base` with the network and the tokenizer of the folder that it is to start from, if any.

    Rows become no longer than the network reads.

    Settings are not laid over it yet, only searched for the folder: what they say of the network
    goes before what the folder says.

    Args:
        base: A recipe as it is named.
        file: YAML settings, as for `configure`.
        overrides: `dotted.path=value` texts; the last word counts.

    Raises:
        CheckpointError: If there is no network in the folder.
    """
    place = base.init_from
    if file is not None:
        place = str(read_yaml(file).get(SETTING, place))
    for text in overrides:
        path, value = split_override(text)
        place = value.strip().strip("'\"") if path == [SETTING] else place
    if not place:
        return base
    folder = weights_folder(place)
    model = read_config(folder)
    data = replace(base.data, seq_len=min(base.data.seq_len, model.max_seq_len))
    try:
        tokenizer_from_folder(folder)
        data = replace(data, tokenizer=str(folder))
    except InputError:
        pass  # a network of a task
    return replace(base, init_from=place, model=model, data=data)


def start_from(model: nn.Module, recipe: Recipe) -> None:
    """Give a fresh network the weights that its recipe starts from, in place.

    Raises:
        CheckpointError: If the folder has none, or they do not fit.
        ConfigError: Naming each field in which the recipe's network is another one.
    """
    folder = weights_folder(recipe.init_from)
    config, weights = load_model(folder)
    _refuse_another(config, recipe.model, folder)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} holds another network's weights: {error}") from None


def _refuse_another(theirs: MythosConfig, ours: MythosConfig, folder: Path) -> None:
    differ = [
        f"{name} ({getattr(ours, name)!r}, there {getattr(theirs, name)!r})"
        for name in FIELDS
        if name not in FREE and getattr(ours, name) != getattr(theirs, name)
    ]
    if differ:
        raise ConfigError(
            f"model differs from {folder}, from which the run starts, in {', '.join(differ)}; "
            f"leave those settings out, or {SETTING}"
        )
