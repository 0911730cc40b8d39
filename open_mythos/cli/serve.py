"""`open-mythos serve`: a model behind OpenAI's interface, on a port."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from open_mythos.checkpoint.store import read_config
from open_mythos.cli.opening import model_folder, open_checkpoint
from open_mythos.config.overrides import configure
from open_mythos.data.tokenizer import tokenizer_from_folder
from open_mythos.engine.settings import EngineConfig
from open_mythos.serve.cluster import ReplicaConfig, ray_replicas
from open_mythos.serve.keys import Keys, read_keys
from open_mythos.serve.relay import Door
from open_mythos.serve.replica import Plan
from open_mythos.serve.server import serve
from open_mythos.serve.service import Served, Service
from open_mythos.serve.settings import ServeConfig


@dataclass(frozen=True)
class Settings:
    """Everything that can be set, as KEY=VALUE.

    Attributes:
        serve: Bounds of the server.
        engine: Sizes of the engine, or of each one.
        replicas: How many there are, and where.
    """

    serve: ServeConfig = field(default_factory=ServeConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    replicas: ReplicaConfig = field(default_factory=ReplicaConfig)


def run(
    checkpoint: Path, name: str | None, keys: Path | None, device: str, overrides: Sequence[str]
) -> None:
    """Open the model and serve it until a signal comes, here or by replicas.

    Raises:
        MythosError: If there is no model, a setting is wrong, or the door would have no lock.
    """
    settings = configure(Settings(), None, overrides)
    known = read_keys(keys)
    settings.serve.require_safe(bool(known))  # before a large model is read
    called = checkpoint.resolve().name if name is None else name
    if settings.replicas.count:
        _spread(model_folder(checkpoint).resolve(), called, known, device, settings)
        return
    opened = open_checkpoint(checkpoint, device)
    served = Served(called, opened.model, opened.tokenizer)
    serve(Service(served, settings.serve, settings.engine, known))


def _spread(folder: Path, name: str, keys: Keys, device: str, settings: Settings) -> None:
    """Serve by replicas; what is wrong with the folder is found before any of them starts."""
    read_config(folder)
    tokenizer_from_folder(folder)
    plan = Plan(str(folder), name, device, settings.serve, settings.engine)
    with ray_replicas(plan, settings.replicas) as replicas:
        serve(Door(replicas, settings.serve, keys))
