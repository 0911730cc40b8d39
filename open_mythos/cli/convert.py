"""`open-mythos convert`: weights of open-mythos 0.5.0 to a model folder."""

from pathlib import Path

from rich.console import Console

from open_mythos.checkpoint.store import read_config
from open_mythos.config.mythos import MythosConfig
from open_mythos.config.overrides import from_plain, read_yaml
from open_mythos.errors import CheckpointError
from open_mythos.model.legacy import load_legacy


def run(*, source: Path, destination: Path, config: Path | None, trusted: bool) -> None:
    """Read an old .pt file safely and write config.json and model.safetensors.

    Raises:
        CheckpointError: If the file cannot be read, or the destination already holds a model.
    """
    if (destination / "config.json").exists():
        raise CheckpointError(f"{destination} already holds a model; give another folder")
    model = load_legacy(source, _read(config), trusted=trusted)
    model.save_pretrained(destination)
    count = sum(p.numel() for p in model.parameters())
    Console(stderr=True).print(
        f"{source} -> {destination}: {count:,} parameters, readout {model.cfg.readout!r} "
        "(0.5.0's unnormalised halting sum, with which these weights were trained)",
        highlight=False,
        markup=False,
    )


def _read(config: Path | None) -> MythosConfig | None:
    if config is None:
        return None
    if config.is_dir():
        return read_config(config)
    return from_plain(MythosConfig, read_yaml(config))
