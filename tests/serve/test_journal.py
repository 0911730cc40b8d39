"""The log: one JSON object a line, whatever a stranger puts into it."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from open_mythos.serve.journal import LOGGER, note, to_stream
from open_mythos.serve.record import Record


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    found = io.StringIO()
    loggers = [logging.getLogger(name) for name in ("open_mythos.serve", "uvicorn.error")]
    kept = [(one, one.handlers, one.propagate, one.level) for one in loggers]
    to_stream(found)
    yield found
    for one, handlers, propagate, level in kept:
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


def test_every_line_is_json(stream: io.StringIO) -> None:
    note(Record("GET", '/a\n{"forged": 1}\u2028"', status=404))
    note(Record("POST", "/v1/completions", status=500))
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        LOGGER.error("it failed", exc_info=error)
    logging.getLogger("uvicorn.error").warning("from %s", "elsewhere")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["level"] for line in lines] == ["info", "error", "error", "warning"]
    assert lines[0]["status"] == 404
    assert "ZeroDivisionError" in lines[2]["trace"]
    assert lines[3]["event"] == "from elsewhere"
