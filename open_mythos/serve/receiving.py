"""Receiving: the body of a request, bounded in bytes and time while it comes, and its form."""

import asyncio
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from open_mythos.serve.refusals import Refusal, from_validation
from open_mythos.serve.settings import ServeConfig
from open_mythos.serve.streams import GoneError


Body = TypeVar("Body", bound=BaseModel)


async def read_body(
    request: Request, kind: type[Body], settings: ServeConfig
) -> tuple[Body, bytes]:
    """The body in its form, and as it came.

    Raises:
        Refusal: As `read_raw`; 400 for what is wrong with it.
        GoneError: If the client left meanwhile.
    """
    raw = await read_raw(request, settings)
    try:
        # Off the event loop: a large body takes tens of milliseconds, and others wait.
        return await asyncio.to_thread(kind.model_validate_json, raw), raw
    except ValidationError as error:
        raise from_validation(error, kind.model_fields) from None


async def read_raw(request: Request, settings: ServeConfig) -> bytes:
    """The body as it came.

    Raises:
        Refusal: 415 unless it is said to be JSON, which no page of another site can say unasked;
            413 and 408 for too many bytes, or too slow ones.
        GoneError: If the client left meanwhile.
    """
    sort = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if sort != "application/json":
        raise Refusal(
            415, f"content-type is {sort[:64]!r}; send JSON, as content-type: application/json",
            code="unsupported_media_type", hang_up=True,
        )  # fmt: skip
    try:
        async with asyncio.timeout(settings.body_seconds):
            return await _bytes(request, settings.body_bytes)
    except TimeoutError:
        raise Refusal(
            408, f"the body did not arrive in {settings.body_seconds:g} s",
            code="body_timeout", hang_up=True,
        ) from None  # fmt: skip
    except ClientDisconnect:
        raise GoneError from None


async def _bytes(request: Request, most: int) -> bytes:
    too_much = Refusal(
        413, f"the body has more than {most} bytes", code="body_too_large", hang_up=True
    )
    said = request.headers.get("content-length", "")
    if said.isascii() and said.isdigit() and (len(said) > 18 or int(said) > most):
        raise too_much
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > most:
            raise too_much
    return bytes(found)
