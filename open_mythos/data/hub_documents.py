"""Documents of the Hugging Face hub, streamed; without a network, an error within seconds."""

import importlib
import os
from collections.abc import Iterator
from typing import Any

from open_mythos.data.hub import DEFAULT_ENDPOINT, OFFLINE_SWITCHES, PATIENCE_S, hub_answers
from open_mythos.data.readers import Piece, Reading, pieces, text_in
from open_mythos.errors import InputError, MissingExtraError


SWITCHES = (*OFFLINE_SWITCHES, "HF_DATASETS_OFFLINE")
ON = {"1", "ON", "YES", "TRUE"}
SPLIT = "train"
LOCAL = "local files and folders need no network"


def read_hub(name: str, reading: Reading) -> Iterator[Piece]:
    """The documents of `owner/name`, `owner/name:subset` or `owner/name:subset:split`.

    Rows come in the order of the hub's files. Nothing is kept on disk.

    Raises:
        MissingExtraError: Without `datasets`.
        InputError: If the hub lacks the data set or stops sending, or a row has no text.
    """
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingExtraError(
            "datasets", "data", f"the data set {name!r} ({LOCAL}; it)"
        ) from error
    data, subset, split, *_ = *name.split(":"), "", ""
    try:
        rows = library.load_dataset(data, subset or None, split=split or SPLIT, streaming=True)
    except Exception as error:
        raise InputError(f"the hub gave no data set {name!r} ({_first_line(error)})") from error
    stream = iter(rows.skip(reading.first) if reading.first else rows)
    number = reading.first
    while True:
        try:
            row: dict[str, Any] | None = next(stream, None)
        except Exception as error:
            raise InputError(
                f"the hub stopped sending {name!r} at row {number + 1} ({_first_line(error)}); run "
                "the same command again to go on"
            ) from error
        if row is None:
            return
        text = text_in(row, reading, f"{name}, row {number + 1}")
        if text is not None:
            yield from pieces(number, text, 0)
        number += 1


def require_hub(name: str) -> None:
    """Refuse a hub id where there is no hub: `datasets` itself takes minutes to find that out.

    Raises:
        InputError: If a switch forbids the network, or no hub answers.
    """
    nowhere = f"there is no file or folder {name!r}, and as a data set of the Hugging Face hub it"
    for switch in SWITCHES:
        if os.environ.get(switch, "").upper() in ON:
            raise InputError(f"{nowhere} cannot be fetched: {switch} forbids it; {LOCAL}")
    endpoint = os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    if not hub_answers(endpoint):
        raise InputError(
            f"{nowhere} cannot be fetched: no hub answered at {endpoint} within {PATIENCE_S:g} s; "
            f"{LOCAL}"
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
