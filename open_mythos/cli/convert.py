"""`open-mythos convert`: old weights, or a looped model of another project, to a model folder."""

import shutil
from pathlib import Path

from rich.console import Console

from open_mythos.checkpoint.foreign.families import read_foreign
from open_mythos.checkpoint.store import read_config
from open_mythos.config.mythos import MythosConfig
from open_mythos.config.overrides import from_plain, read_yaml
from open_mythos.errors import CheckpointError
from open_mythos.model.legacy import load_legacy
from open_mythos.model.mythos import OpenMythos
from open_mythos.retrofit.folder import TOKENIZER_FILES


def run(
    *, source: Path, destination: Path, config: Path | None, trusted: bool, family: str | None
) -> None:
    """Read an old .pt file or a foreign folder, and write config.json and model.safetensors.

    The files of a foreign tokenizer are copied beside them.

    Raises:
        CheckpointError: If the source cannot be read or is of no network of ours, or the
            destination already holds a model.
    """
    if (destination / "config.json").exists():
        raise CheckpointError(f"{destination} already holds a model; give another folder")
    if source.is_dir() or family is not None:
        if config is not None or trusted:
            raise CheckpointError(
                "--config and --trusted are for .pt files; a foreign folder has its config.json, "
                "and is never unpickled"
            )
        name, cfg, state = read_foreign(source, family)
        model = OpenMythos.from_state(cfg, state, source=str(source))
        story = f"{name}, trained at {cfg.max_loop_iters} loops"
    else:
        model = load_legacy(source, _read(config), trusted=trusted)
        story = (
            f"readout {model.cfg.readout!r} (0.5.0's unnormalised halting sum, with which these "
            "weights were trained)"
        )
    model.save_pretrained(destination)
    for path in (source / file for file in TOKENIZER_FILES):
        if path.is_file():
            shutil.copyfile(path, destination / path.name)
    count = sum(p.numel() for p in model.parameters())
    Console(stderr=True).print(
        f"{source} -> {destination}: {count:,} parameters, {story}", highlight=False, markup=False
    )


def _read(config: Path | None) -> MythosConfig | None:
    if config is None:
        return None
    if config.is_dir():
        return read_config(config)
    return from_plain(MythosConfig, read_yaml(config))
