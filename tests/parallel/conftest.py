"""Processes on this machine's loopback."""

import random
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch.distributed as dist

from tests.parallel.workers import Workers


@pytest.fixture
def free_port() -> int:
    """A port that nobody had a moment ago; below those that connections get by themselves."""
    for port in random.Random().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    pytest.fail("no port is free")


def _workers(world: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    if not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    workers = Workers(world, tmp_path_factory.mktemp(f"ranks{world}"))
    yield workers
    workers.close()


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """`two(function, *args)`: what each of two ranks returns."""
    yield from _workers(2, tmp_path_factory)


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """`four(function, *args)`: what each of four ranks returns."""
    yield from _workers(4, tmp_path_factory)
