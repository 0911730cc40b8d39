"""Journal: the server's log, one JSON object a line."""

import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from open_mythos.serve.record import Record


LOGGER = logging.getLogger("open_mythos.serve")
LOGS = ("open_mythos.serve", "uvicorn.error")


class JsonFormatter(logging.Formatter):
    """A record of `logging` as one line of JSON; what came as `extra={"told": {...}}` as fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        told = getattr(record, "told", None)
        line |= told if isinstance(told, dict) else {"event": record.getMessage()}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)  # ASCII, line breaks escaped: nobody writes lines of his own


def note(record: Record) -> None:
    """A request that has ended."""
    level = logging.ERROR if record.status >= 500 and record.status != 503 else logging.INFO
    LOGGER.log(level, "request", extra={"told": record.line})


def to_stream(
    stream: TextIO | None = None, level: int = logging.INFO, names: Sequence[str] = LOGS
) -> None:
    """Send logs, this one and uvicorn's own, to a stream; None is the standard error."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter())
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
