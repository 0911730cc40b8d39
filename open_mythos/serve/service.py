"""Service: one model behind its engine, and how a question becomes an answer over HTTP."""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from open_mythos.data.tokenizer import Tokenizer
from open_mythos.engine.engine import Engine
from open_mythos.engine.front import AsyncEngine, Stream
from open_mythos.engine.request import Event
from open_mythos.engine.settings import EngineConfig
from open_mythos.errors import BusyError, ConfigError, InputError
from open_mythos.model.mythos import OpenMythos
from open_mythos.serve.answers import Answer, ChatAnswer, CompletionAnswer
from open_mythos.serve.bodies import ChatBody, CompletionBody, InspectBody
from open_mythos.serve.inspector import Inspector
from open_mythos.serve.journal import LOGGER
from open_mythos.serve.keys import Keys
from open_mythos.serve.limits import Limits
from open_mythos.serve.metrics import Metrics
from open_mythos.serve.questions import Question, Reader
from open_mythos.serve.receiving import read_body
from open_mythos.serve.record import Record
from open_mythos.serve.refusals import Refusal, broken, invalid
from open_mythos.serve.settings import ServeConfig
from open_mythos.serve.spellings import Spellings
from open_mythos.serve.streams import EventStream, close_all, merged, open_all, unless_gone


T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """What is served.

    Attributes:
        name: Of the model, as requests must say it.
        model: In evaluation mode.
        tokenizer: Its own.
    """

    name: str
    model: OpenMythos
    tokenizer: Tokenizer


class Service:
    """What all requests share. Made outside of an event loop, run inside of one.

    Attributes:
        served: The model.
        settings: Bounds.
        keys: Who may come in.
        limits: How much at once.
        metrics: What was done.
        front: The engine.
        reader: Bodies to questions.
        spellings: Tokens by themselves.
        inspector: Looks into texts.
        ending: Whether it takes nobody new.
    """

    def __init__(
        self,
        served: Served,
        settings: ServeConfig | None = None,
        sizes: EngineConfig | None = None,
        keys: Keys | None = None,
    ) -> None:
        """Allocate the engine.

        Raises:
            InputError: If the model cannot serve requests side by side.
        """
        self.served, self.settings = served, ServeConfig() if settings is None else settings
        self.keys = Keys({}) if keys is None else keys
        self.limits, self.metrics = Limits(self.settings), Metrics()
        self.front = AsyncEngine(Engine(served.model, served.tokenizer, sizes))
        config, loops = served.model.cfg, self.front.engine.settings.n_loops
        self.reader = Reader(
            tokenizer=served.tokenizer,
            n_loops=loops or config.max_loop_iters,
            context=config.max_seq_len,
            settings=self.settings,
        )
        self.spellings = Spellings(served.tokenizer)
        self.inspector = Inspector(self.front, self.reader, self.spellings)
        self.ending = False

    @property
    def state(self) -> str:
        """In one word: "ready", "ending" or "broken"."""
        if self.front.broken:
            return "broken"
        return "ready" if self.front.running and not self.ending else "ending"

    async def complete(self, request: HttpRequest) -> Response:
        """Answer POST /v1/completions."""
        body, raw = await read_body(request, CompletionBody, self.settings)
        record = self._begin(request, body.model, raw)
        question = await asyncio.to_thread(self.reader.completion, body, record.namespace)
        answer = CompletionAnswer(question, self.spellings, self.served.name)
        return await self._answer(request, record, question, answer)

    async def chat(self, request: HttpRequest) -> Response:
        """Answer POST /v1/chat/completions."""
        body, raw = await read_body(request, ChatBody, self.settings)
        record = self._begin(request, body.model, raw)
        question = await asyncio.to_thread(self.reader.chat, body, record.namespace)
        answer = ChatAnswer(question, self.spellings, self.served.name)
        return await self._answer(request, record, question, answer)

    async def inspect(self, request: HttpRequest) -> Response:
        """Answer POST /v1/inspect."""
        body, raw = await read_body(request, InspectBody, self.settings)
        record = self._begin(request, body.model, raw)
        ids, prompt = await asyncio.to_thread(self.reader.inspected, body)
        record.prompt_tokens = len(ids)
        return Response(
            await self._in_time(request, self.inspector.look(body, ids, prompt)),
            media_type="application/json",
        )

    # -- parts -----------------------------------------------------------------------------------

    async def _in_time(self, request: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
        """What becomes of some work, unless it takes too long or the client leaves."""
        try:
            async with asyncio.timeout(self.settings.seconds):
                return await unless_gone(request.receive, work)
        except TimeoutError:
            raise self._late from None

    def _begin(self, request: HttpRequest, model: str, raw: bytes) -> Record:
        self.require_model(model)
        record: Record = request.state.record
        if self.settings.log_prompts:
            record.asked = raw.decode("utf-8", "replace")
        return record

    def require_model(self, name: str) -> None:
        """Refuse another model than this.

        Raises:
            Refusal: 404.
        """
        if name != self.served.name:
            raise Refusal(
                404, f"the model {name[:80]!r} does not exist; this server has "
                f"{self.served.name!r}", param="model", code="model_not_found",
            )  # fmt: skip

    async def _open(self, question: Question) -> list[Stream]:
        try:
            return await open_all(self.front, question.requests)
        except (InputError, ConfigError) as error:
            raise invalid(str(error)) from error
        except BusyError as error:
            raise Refusal(503, str(error), code="overloaded", wait=1.0) from error

    async def _answer(
        self, request: HttpRequest, record: Record, question: Question, answer: Answer
    ) -> Response:
        record.prompt_tokens = question.prompt_tokens
        if not question.stream:
            whole = self._whole(record, question, answer)
            return JSONResponse(await self._in_time(request, whole))
        streams = await self._open(question)
        return EventStream(
            self._lines(streams, record, question, answer),
            partial(self._closed, streams, record),
            self.settings.seconds,
            _line(self._late.body),
        )

    @property
    def _late(self) -> Refusal:
        return Refusal(
            504, f"the answer took more than {self.settings.seconds:g} s; ask for fewer tokens or "
            "loops, or take it as a stream", code="timeout",
        )  # fmt: skip

    async def _whole(self, record: Record, question: Question, answer: Answer) -> dict[str, Any]:
        streams = await self._open(question)
        told: dict[tuple[int, int], list[Event]] = {}
        events = merged(streams)
        try:
            async for place, event in events:
                _count(record, event)
                told.setdefault((place, event.choice), []).append(event)
        finally:
            await events.aclose()
            await close_all(streams)
        return answer.whole(told)

    async def _lines(
        self, streams: Sequence[Stream], record: Record, question: Question, answer: Answer
    ) -> AsyncGenerator[bytes, None]:
        events = merged(streams)
        try:
            async for place, event in events:
                _count(record, event)
                yield _line(answer.chunk(place, event))
            if question.usage:
                yield _line(answer.end())
            yield b"data: [DONE]\n\n"
        except (RuntimeError, Refusal) as error:
            # Too late for a status: the error is a line of its own, as clients expect it.
            LOGGER.error("a stream broke off", exc_info=error)
            record.code = "internal_error"
            yield _line(broken().body)
        finally:
            await events.aclose()

    async def _closed(self, streams: Sequence[Stream], record: Record, left: bool) -> None:
        record.gone = left
        await close_all(streams)


def _count(record: Record, event: Event) -> None:
    if event.token is not None:
        record.said(event.loops)


def _line(told: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(told, separators=(",", ":")).encode() + b"\n\n"
