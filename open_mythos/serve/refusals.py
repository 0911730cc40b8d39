"""Refusal: a request that is not answered, in the form of OpenAI's errors."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

from open_mythos.errors import did_you_mean


SHOWN = 300  # characters of a reason; what a client sent is not echoed at length


class Refusal(Exception):
    """An answer with a status of 400 or above.

    Attributes:
        status: HTTP status.
        message: What is wrong, and the way out.
        kind: OpenAI's `type`; None: by the status.
        param: The field that is wrong, if one is.
        code: A short name for programs.
        wait: Seconds after which the same request may be answered (Retry-After).
        hang_up: Whether the connection ends with it: there may be more of a body that nobody reads.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        param: str | None = None,
        code: str | None = None,
        wait: float | None = None,
        hang_up: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
        self.wait, self.hang_up = wait, hang_up

    @property
    def body(self) -> dict[str, Any]:
        """The error as JSON."""
        told = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": told}

    @property
    def response(self) -> JSONResponse:
        """The error as an answer."""
        headers: dict[str, str] = {}
        if self.wait is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.wait)))
        if self.hang_up:
            headers["connection"] = "close"
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """A 400: the request can never be answered as it is."""
    return Refusal(400, message, param=param, code=code)


def broken() -> Refusal:
    """A 500 that tells a stranger nothing of the inside; the log has it."""
    return Refusal(500, "the server failed to answer; its log says why", code="internal_error")


def from_validation(error: ValidationError, known: Mapping[str, Any]) -> Refusal:
    """A 400 for the first thing that is wrong with a body.

    Args:
        error: What pydantic found.
        known: Fields that the body may have.
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place, reason = first["loc"], str(first["msg"])[:SHOWN]
    param = None if not place else ".".join(_steps(place))
    match first["type"]:
        case "json_invalid":
            return invalid(f"the body is no valid JSON: {reason}", code="invalid_json")
        case "extra_forbidden":
            name = str(place[-1])[:64]
            hint = f"; {did_you_mean(name, known)}" if len(place) == 1 else ""
            message = f"Unrecognized request argument supplied: {name}{hint}"
            return invalid(message[: 4 * SHOWN], param[:SHOWN] if param else None,
                           "unknown_parameter")  # fmt: skip
        case "missing":
            return invalid(f"Missing required parameter: {param!r}", param, "missing_parameter")
        case _:
            where = "the body" if param is None else repr(param[:SHOWN])
            return invalid(f"Invalid value for {where}: {reason}", param, "invalid_value")


def _steps(place: tuple[int | str, ...]) -> list[str]:
    """A field and what lies in it; names of the kinds that a union has tried are left out."""
    return [str(place[0]), *(str(step) for step in place[1:] if isinstance(step, int))]
