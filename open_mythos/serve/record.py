"""Record: what is kept of one request for the log and the metrics; nothing of what it says."""

import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4


@dataclass
class Record:
    """One request, as it goes.

    Attributes:
        method: HTTP method.
        path: Of the URL, without a query.
        id: Goes out as x-request-id.
        caller: Name of the key, or the address, by which limits count.
        keyed: Whether a key said so.
        began: When, by the clock of `time.monotonic`.
        status: Of the answer; 0 while there is none, and where the client left before.
        prompt_tokens: Tokens of all prompts.
        tokens: Tokens written.
        loops: Loops of the positions that said them.
        first: Seconds to the first token.
        gone: Whether the client left before the end.
        code: Of the error, if it ended in one.
        asked: What was asked, where the log shall show it.
    """

    method: str
    path: str
    id: str = field(default_factory=lambda: uuid4().hex)
    caller: str = "nobody"
    keyed: bool = False
    began: float = field(default_factory=time.monotonic)
    status: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    loops: int = 0
    first: float | None = None
    gone: bool = False
    code: str | None = None
    asked: str | None = None

    @property
    def seconds(self) -> float:
        """Time since it began."""
        return time.monotonic() - self.began

    @property
    def namespace(self) -> str:
        """Who may share what is cached of a prompt: one key, or all where there are none."""
        return self.caller if self.keyed else ""

    def said(self, loops: int) -> None:
        """One more token, after so many loops."""
        if self.first is None:
            self.first = self.seconds
        self.tokens += 1
        self.loops += loops

    @property
    def line(self) -> dict[str, Any]:
        """What the log says of it."""
        told: dict[str, Any] = {
            "event": "request",
            "id": self.id,
            "caller": self.caller,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "seconds": round(self.seconds, 4),
        }
        if self.prompt_tokens:
            told |= {"prompt_tokens": self.prompt_tokens, "tokens": self.tokens}
            told |= {"loops": self.loops}
        if self.first is not None:
            told["first_token"] = round(self.first, 4)
        if self.gone:
            told["gone"] = True
        if self.code is not None:
            told["code"] = self.code
        if self.asked is not None:
            told["asked"] = self.asked
        return told
