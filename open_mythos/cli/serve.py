"""`open-mythos serve`: a model behind OpenAI's interface, on a port."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from open_mythos.cli.opening import open_checkpoint
from open_mythos.config.overrides import configure
from open_mythos.engine.settings import EngineConfig
from open_mythos.serve.keys import read_keys
from open_mythos.serve.server import serve
from open_mythos.serve.service import Served, Service
from open_mythos.serve.settings import ServeConfig


@dataclass(frozen=True)
class Settings:
    """Everything that can be set, as KEY=VALUE.

    Attributes:
        serve: Bounds of the server.
        engine: Sizes of the engine.
    """

    serve: ServeConfig = field(default_factory=ServeConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)


def run(
    checkpoint: Path, name: str | None, keys: Path | None, device: str, overrides: Sequence[str]
) -> None:
    """Open the model and serve it until a signal comes.

    Raises:
        MythosError: If there is no model, a setting is wrong, or the door would have no lock.
    """
    settings = configure(Settings(), None, overrides)
    known = read_keys(keys)
    settings.serve.require_safe(bool(known))  # before a large model is read
    opened = open_checkpoint(checkpoint, device)
    called = checkpoint.resolve().name if name is None else name
    served = Served(called, opened.model, opened.tokenizer)
    serve(Service(served, settings.serve, settings.engine, known))
