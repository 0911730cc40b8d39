"""Guard: what every request passes: identity, limits, a log line, one form of errors."""

from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from open_mythos.serve.journal import LOGGER, note
from open_mythos.serve.keys import Keys
from open_mythos.serve.limits import Limits
from open_mythos.serve.metrics import Metrics
from open_mythos.serve.page import PARTS
from open_mythos.serve.record import Record
from open_mythos.serve.refusals import Refusal, broken
from open_mythos.serve.settings import LOCAL_NAMES, ServeConfig
from open_mythos.serve.streams import GoneError


# Nothing secret, and whoever asks whether a server lives has no key; nor has who opens the page,
# whose other files lie under `PARTS`.
OPEN = frozenset(("/", "/health", "/ready", "/openapi.json"))
METERED = frozenset(("/v1/completions", "/v1/chat/completions", "/v1/inspect"))
# In the scope of a request that another guard has let in: no client can put it there.
LET_IN = "open_mythos.let_in"


@dataclass(frozen=True)
class LetIn:
    """Who asks, as the guard at the door found.

    Attributes:
        id: Of the request.
        caller: As in `Record`.
        keyed: Likewise.
    """

    id: str
    caller: str
    keyed: bool


class Guarded(Protocol):
    """What stands behind a guard."""

    @property
    def settings(self) -> ServeConfig:
        """Bounds."""
        ...

    @property
    def keys(self) -> Keys:
        """Who may come in."""
        ...

    @property
    def limits(self) -> Limits:
        """How much at once."""
        ...

    @property
    def metrics(self) -> Metrics:
        """What was done."""
        ...

    @property
    def state(self) -> str:
        """In one word; "ready" if it takes requests."""
        ...


class Guard:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, service: Guarded) -> None:
        """In front of an app."""
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or see to it that somebody does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record(scope["method"], scope["path"])
        scope.setdefault("state", {})["record"] = record
        told: LetIn | None = scope.get(LET_IN)
        if told is not None:
            record.id = told.id

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = record.id
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            await self._handle(scope, receive, noted, record)
        except GoneError:
            record.gone = True
        except Refusal as refusal:
            record.code = refusal.code
            await refusal.response(scope, receive, noted)
        except Exception as error:  # noqa: BLE001 -- nobody outside may see what went wrong inside
            LOGGER.error("request %s failed", record.id, exc_info=error)
            record.code = "internal_error"
            if record.status:
                raise RuntimeError("an answer broke off; see the log") from None
            await broken().response(scope, receive, noted)
        finally:
            self._service.metrics.ended(record)
            if told is None:  # else the door notes it
                note(record)

    async def _handle(self, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
        self._identify(scope, record)
        if scope["path"] not in METERED or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._service.state != "ready":
            raise Refusal(
                503, f"the server is {self._service.state}; try another", code="unavailable",
                wait=5.0, hang_up=True,
            )  # fmt: skip
        with self._service.limits.admitted(record.caller):
            await self._app(scope, receive, send)

    def _identify(self, scope: Scope, record: Record) -> None:
        """Who asks; without keys, the address."""
        told: LetIn | None = scope.get(LET_IN)
        if told is not None:
            record.caller, record.keyed = told.caller, told.keyed
            return
        headers, keys, settings = Headers(scope=scope), self._service.keys, self._service.settings
        record.caller = (scope.get("client") or ("nobody",))[0]
        if keys:
            name = keys.name(headers.get("authorization"))
            if name is not None:
                record.caller, record.keyed = name, True
            elif scope["path"] not in OPEN and not scope["path"].startswith(PARTS):
                raise Refusal(
                    401, "no valid API key; send it as Authorization: Bearer KEY",
                    code="invalid_api_key", hang_up=True,
                )  # fmt: skip
        elif settings.loopback and not settings.public:
            # A page of another site whose name was made to mean this machine is no local user.
            host = headers.get("host", "")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if name not in (*LOCAL_NAMES, settings.host):
                raise Refusal(
                    421, f"Host is {host[:80]!r}; a server without keys answers to "
                    "localhost alone: set a key, or call it by that name",
                    code="unknown_host", hang_up=True,
                )  # fmt: skip
