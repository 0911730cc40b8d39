"""The options of `open-mythos serve`, whose work is imported when it runs."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from open_mythos.cli.options import Checkpoint, Device, Overrides
from open_mythos.errors import MissingExtraError


NEEDED = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}
RAY = "ray"


def serve(
    checkpoint: Checkpoint,
    overrides: Overrides = None,
    host: Annotated[
        str, typer.Option(help="Address; beyond this machine it needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the model; default: its folder's.", show_default=False),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            help="File of API keys, a line NAME KEY each; or OPEN_MYTHOS_API_KEYS=KEY,KEY.",
            show_default=False,
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Let anybody in, without a key, wherever from.")
    ] = False,
    replicas: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Engines behind this address, each a process that Ray Serve keeps alive.",
            show_default=False,
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster for the replicas, e.g. auto; default: one on this machine.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Serve a model over HTTP, as OpenAI does; bounds as serve.X=..., sizes as engine.X=..."""
    for module, package in NEEDED.items():
        if find_spec(module) is None:
            raise MissingExtraError(package, "serve", "open-mythos serve")
    if replicas is not None and find_spec(RAY) is None:
        raise MissingExtraError("ray", "ray", "open-mythos serve --replicas")
    from open_mythos.cli.serve import run

    told = [f"serve.host={host}", f"serve.port={port}", f"serve.public={str(public).lower()}"]
    told += [] if replicas is None else [f"replicas.count={replicas}"]
    told += [] if ray_address is None else [f"replicas.address={ray_address}"]
    run(checkpoint, name, keys, device, [*told, *(overrides or ())])
