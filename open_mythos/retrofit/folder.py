"""A looped network's folder: its weights beside the tokenizer of the model it was made of."""

import shutil
from pathlib import Path

from open_mythos.checkpoint.files import atomic_folder, write_manifest
from open_mythos.checkpoint.store import write_model
from open_mythos.errors import CheckpointError
from open_mythos.retrofit.surgery import Retrofit


# What tokenizers of all kinds lie in, in the folders of transformers.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


def save_retrofit(made: Retrofit, folder: str | Path) -> list[str]:
    """Write a model folder, whole or not at all; the names of the tokenizer's files in it.

    Raises:
        CheckpointError: If the folder holds anything already.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} is not empty; give the looped network a new folder")
    copied = [name for name in TOKENIZER_FILES if (made.source.folder / name).is_file()]
    with atomic_folder(target) as fresh:
        write_model(fresh, made.model.cfg, made.model.state_dict())
        for name in copied:
            shutil.copyfile(made.source.folder / name, fresh / name)
        write_manifest(fresh)
    return copied
