"""A tiny random model that reads and writes bytes, behind the server."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.engine.engine import Engine
from open_mythos.engine.request import Event
from open_mythos.engine.settings import EngineConfig
from open_mythos.model.mythos import OpenMythos


pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

from open_mythos.serve.app import build_app  # noqa: E402 -- extras
from open_mythos.serve.keys import Keys  # noqa: E402
from open_mythos.serve.server import build_server  # noqa: E402
from open_mythos.serve.service import Served, Service  # noqa: E402
from open_mythos.serve.settings import ServeConfig  # noqa: E402


CHANGES = {"vocab_size": 257, "max_seq_len": 128, "max_loop_iters": 4, "max_output_tokens": 64}


@pytest.fixture
def build_model(tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]) -> Any:
    """`build_model(**changes)`: in float64, so that near-ties of two tokens fall one way."""

    def make(**changes: Any) -> OpenMythos:
        model = OpenMythos(tiny_config(**{**CHANGES, **changes}))
        found: OpenMythos = randomised(model).double().eval()
        return found

    return make


@pytest.fixture
def build_service(build_model: Any) -> Any:
    """`build_service(keys=..., sizes=..., template=..., tokenizer=..., **settings)`."""

    def make(
        keys: dict[str, str] | None = None,
        sizes: dict[str, int] | None = None,
        template: bool = True,
        tokenizer: Any = None,
        changes: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Service:
        if tokenizer is None:
            tokenizer = ByteTokenizer() if template else ByteTokenizer(chat_template=None)
        settings = {"port": 0, **settings}
        few = {"blocks": 128, "block_size": 8, "rows": 8, "chunk": 32, **(sizes or {})}
        return Service(
            Served("tiny", build_model(**(changes or {})), tokenizer),
            ServeConfig(**settings),
            EngineConfig(**few),
            Keys(keys or {}),
        )

    return make


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Any]:
    """A client in process, while the engine steps."""
    app = build_app(service)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("10.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield client


@pytest.fixture
def talk() -> Any:
    """`talk(service, script)`: run `await script(client)` against a service, within a time."""

    def run(service: Service, script: Callable[[Any], Awaitable[Any]]) -> Any:
        async def work() -> Any:
            async with running(service) as client:
                return await script(client)

        return asyncio.run(asyncio.wait_for(work(), 60))

    return run


@pytest.fixture
def hold() -> Any:
    """`release = hold(engine, tokens)`: after so many tokens it takes no step until `release()`.

    What it is told it does meanwhile: whoever is slow comes in time all the same.
    """

    def run(engine: Engine, tokens: int = 0) -> Callable[[], None]:
        step = engine.step

        def held() -> list[Event]:
            return step() if engine.counters.tokens < tokens else []

        def release() -> None:
            engine.step = step  # type: ignore[method-assign]

        engine.step = held  # type: ignore[method-assign]
        return release

    return run


@pytest.fixture
def post() -> Any:
    """`await post(client, path, **body)`: the answer."""

    async def send(client: Any, path: str, **body: Any) -> Any:
        return await client.post(path, json={"model": "tiny", **body})

    return send


@pytest.fixture
def listening() -> Any:
    """`with listening(service) as url`: a real server on a free port, in a thread of its own."""

    @contextmanager
    def run(service: Service) -> Iterator[str]:
        server = build_server(service)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            end = time.monotonic() + 30
            while not server.started and thread.is_alive() and time.monotonic() < end:
                time.sleep(0.01)
            assert server.started
            port = server.servers[0].sockets[0].getsockname()[1]
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(30)
        assert not thread.is_alive()

    return run
