"""The app: routes over a service, and an OpenAPI document of them."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response

from open_mythos import __version__
from open_mythos.serve.bodies import ChatBody, CompletionBody, InspectBody, documented
from open_mythos.serve.guard import Guard
from open_mythos.serve.inspector import known_exits
from open_mythos.serve.metrics import MEDIA_TYPE
from open_mythos.serve.page import PARTS, read_page
from open_mythos.serve.refusals import Refusal
from open_mythos.serve.service import Service


TITLE = "open-mythos"
# FastAPI annotates routes of plain Responses as it finds them; the document says so in words.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in (
        (400, "The request can never be answered as it is."),
        (401, "No valid key."),
        (404, "No such model, or nothing at this address."),
        (408, "The body came too slowly."),
        (413, "The body is too large."),
        (415, "The body is not said to be JSON."),
        (429, "Too many requests of this key; see Retry-After."),
        (500, "The server failed."),
        (503, "Too many requests, or the server is ending; see Retry-After."),
        (504, "The answer took too long."),
    )
}


def build_app(service: Service) -> FastAPI:
    """Everything that the server answers to; its lifespan is the engine's."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.front:
            yield

    app = FastAPI(
        title=TITLE,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        middleware=[Middleware(Guard, service=service)],
        exception_handlers={Refusal: _refused, HTTPException: _plain},
    )
    _add_answers(app, service)
    _add_page(app, service)
    _add_states(app, service)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", responses=ERRORS, openapi_extra=documented(CompletionBody))
    async def completions(request: Request) -> Response:
        """Continue a text."""
        return await service.complete(request)

    @app.post("/v1/chat/completions", responses=ERRORS, openapi_extra=documented(ChatBody))
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        return await service.chat(request)

    @app.post("/v1/inspect", responses=ERRORS, openapi_extra=documented(InspectBody))
    async def inspect(request: Request) -> Response:
        """Look into a text: what each position would say after each loop, and what that took."""
        return await service.inspect(request)

    began = int(time.time())
    config = service.served.model.cfg
    exits = known_exits(service.served.model, service.reader.n_loops)

    def told() -> dict[str, Any]:
        return {
            "id": service.served.name,
            "object": "model",
            "created": began,
            "owned_by": TITLE,
            "max_model_len": service.reader.context,
            "max_output_tokens": config.max_output_tokens,
            "max_loops": service.reader.n_loops,
            "max_inspect_len": min(service.settings.inspect_tokens, service.reader.context),
            "chat": bool(getattr(service.served.tokenizer, "chat_template", None)),
            "readout": config.readout,
            "exits": exits,
        }

    @app.get("/v1/models", responses={401: ERRORS[401]})
    async def models() -> dict[str, Any]:
        """The one model that there is."""
        return {"object": "list", "data": [told()]}

    @app.get("/v1/models/{name:path}", responses={401: ERRORS[401], 404: ERRORS[404]})
    async def model(name: str) -> dict[str, Any]:
        """A model by its name."""
        service.require_model(name)
        return told()


def _add_page(app: FastAPI, service: Service) -> None:
    page = read_page()

    @app.get("/")
    async def root(request: Request) -> Response:
        """The page for browsers, and what there is for everybody else."""
        if "text/html" in request.headers.get("accept", ""):
            return page.answer("index.html", request.headers)
        told = {"model": service.served.name, "version": __version__, "api": "/openapi.json"}
        return JSONResponse(told, headers={"vary": "accept"})

    for name in page.names - {"index.html"}:

        @app.get(f"{PARTS}{name}", include_in_schema=False)
        async def part(request: Request, name: str = name) -> Response:
            return page.answer(name, request.headers)


def _add_states(app: FastAPI, service: Service) -> None:
    @app.get("/health", responses={503: {"description": "The engine broke; start it anew."}})
    async def health() -> Response:
        """Whether the process is of use."""
        return JSONResponse({"status": service.state}, 503 if service.state == "broken" else 200)

    @app.get("/ready", responses={503: {"description": "Takes no requests."}})
    async def ready() -> Response:
        """Whether a request would be taken now."""
        return JSONResponse({"status": service.state}, 200 if service.state == "ready" else 503)

    @app.get("/metrics", responses={401: ERRORS[401]})
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        stats = await service.front.stats()
        text = service.metrics.text(stats, service.limits.in_flight)
        return Response(text, media_type=MEDIA_TYPE)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    request.state.record.code = error.code
    return error.response


async def _plain(request: Request, error: Exception) -> Response:
    """What the router itself refuses: no such address, no such method."""
    assert isinstance(error, HTTPException)
    refusal = Refusal(error.status_code, f"{request.method} {request.url.path[:80]}: "
                      f"{error.detail}", code="not_found")  # fmt: skip
    answer = refusal.response
    answer.headers.update(error.headers or {})
    return answer


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=TITLE, version=__version__, routes=app.routes)
        _, bodies = models_json_schema(
            [(kind, "validation") for kind in (CompletionBody, ChatBody, InspectBody)],
            ref_template="#/components/schemas/{model}",
        )
        known = document.setdefault("components", {}).setdefault("schemas", {})
        known.update(bodies["$defs"])
        app.openapi_schema = document
    return app.openapi_schema
