"""From a path that a user types to the model behind it: a model folder, a checkpoint or a run."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from open_mythos.data.tokenizer import Tokenizer, tokenizer_from_folder
from open_mythos.errors import CheckpointError, InputError
from open_mythos.interop.quantisation import quantize
from open_mythos.model.mythos import OpenMythos
from open_mythos.train.build import find_device
from open_mythos.train.checkpoints import RunFolder, newest_checkpoint, read_recipe
from open_mythos.train.recipe import Recipe


HELD_OUT = "held-out.txt"


@dataclass(frozen=True)
class Opened:
    """A model and what lies beside it.

    Attributes:
        folder: Where the weights are.
        model: In evaluation mode.
        recipe: How it was trained: of its run, or recipe.yaml beside the weights; else None.
        held_out: A text that it has not seen, where one travels with the weights.
    """

    folder: Path
    model: OpenMythos
    recipe: Recipe | None
    held_out: Path | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer saved with the weights.

        Raises:
            InputError: If there is none, as for models that were trained on a task.
        """
        try:
            return tokenizer_from_folder(self.folder)
        except (InputError, OSError) as error:
            raise InputError(
                f"{self.folder} has no tokenizer, so this model neither reads nor writes text; "
                "try `open-mythos sweep` on it"
            ) from error

    def on_task(self, name: str | None) -> "Opened":
        """The same, its run's data cut down to one of the tasks that it mixes; None: as it is.

        Raises:
            InputError: If the model was not trained on mixed tasks.
            ConfigError: If there is no such task among them.
        """
        if name is None:
            return self
        if self.recipe is None or self.recipe.data.kind != "mixed":
            raise InputError(
                f"{self.folder} was not trained on mixed tasks, so there is no task to choose; "
                "leave --task out"
            )
        data = replace(self.recipe.data, task={**self.recipe.data.task, "only": name})
        return replace(self, recipe=replace(self.recipe, data=data))


def model_folder(path: Path) -> Path:
    """Where the weights are that a path means: its own, or those of a run's newest checkpoint.

    Raises:
        CheckpointError: If there is nothing.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a model folder or a run folder")
    bare = path.is_file() or (path / "config.json").is_file()
    return path if bare else newest_checkpoint(path)


def open_checkpoint(path: Path, device: str = "cpu", quantised: str | None = None) -> Opened:
    """The model at `path`: a folder with config.json, or a run folder's newest checkpoint.

    Beside config.json may lie recipe.yaml, how it was trained, and held-out.txt, a text to judge it
    on (documents are parted by form feeds).

    Args:
        path: The folder.
        device: "auto" (the accelerator if there is one), or a torch device.
        quantised: "int8" or "int4" (then in bfloat16) to hold the weights so; a line on the error
            stream says how many of them. None leaves them.

    Raises:
        CheckpointError: If there is no model, or it is damaged.
        ConfigError: If the device is not here.
        InputError: If it cannot be quantised, or most of it would stay as it is.
        MissingExtraError: If it is to be, without torchao.
    """
    folder = model_folder(path)
    run = RunFolder(folder.parent.parent)
    inside = folder.parent == run.checkpoints and run.recipe_file.is_file()
    # A model that is handed on takes with it how it was trained, and what it can be judged on.
    root = run.root if inside else folder
    told = RunFolder(root).recipe_file.is_file()
    text = folder / HELD_OUT
    model = OpenMythos.from_pretrained(folder, device=find_device(device))
    weight = model.embed.weight
    if quantised == "int4":  # its products are of that type alone
        model.bfloat16()
    elif not weight.is_cuda and weight.dtype in (torch.bfloat16, torch.float16):
        model.float()  # the same numbers; products of 16 bits took two cores 2 to 4 times as long
    if quantised is not None:
        sys.stderr.write(f"{quantize(model, quantised)}\n")
    return Opened(
        folder, model, read_recipe(root) if told else None, text if text.is_file() else None
    )
