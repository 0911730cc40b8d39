"""The server: a service on a port until somebody ends it, and then until all are answered."""

import math
import resource
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import uvicorn

from open_mythos.serve.app import build_app
from open_mythos.serve.connections import patient
from open_mythos.serve.journal import to_stream
from open_mythos.serve.relay import Door, build_relay
from open_mythos.serve.service import Service
from open_mythos.serve.settings import ServeConfig


SHARE = 0.8  # of the files that a process may open: the rest is for the model's and its log's
BACKLOG = 2048


class Server(uvicorn.Server):
    """Ends as one that has done its work: uvicorn would pass the signal on and die of it."""

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        """Tell somebody when the end begins."""
        super().__init__(config)
        self._ending = ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- its own
        """A signal: finish what was accepted; a second one: do not."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._ending()


def build_server(service: Service | Door) -> Server:
    """A server that listens once it runs: in front of an engine, or of replicas.

    Raises:
        ConfigError: If others could come in without a key, and nobody wanted that.
    """
    settings = service.settings
    settings.require_safe(bool(service.keys))
    config = uvicorn.Config(
        build_relay(service) if isinstance(service, Door) else build_app(service),
        host=settings.host,
        port=settings.port,
        http=patient(replace(settings, connections=_connections(settings))),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=math.ceil(settings.idle_seconds),
        timeout_graceful_shutdown=math.ceil(settings.patience),
    )

    def end() -> None:
        service.ending = True

    return Server(config, end)


def serve(service: Service | Door) -> None:
    """Serve until SIGTERM or SIGINT, answer what was accepted, and return.

    Raises:
        ConfigError: As `build_server`.
        SystemExit: If the port is taken.
    """
    server = build_server(service)
    to_stream()
    server.run()


def _connections(settings: ServeConfig) -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return settings.connections
    return max(1, min(settings.connections, int(SHARE * files)))
