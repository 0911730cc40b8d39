"""The library's exceptions: each message carries the offending value and the way out."""

from collections.abc import Iterable
from difflib import get_close_matches


class MythosError(Exception):
    """Root of every error that this library raises on purpose."""


class ConfigError(MythosError, ValueError):
    """A configuration that cannot describe a network or a run."""


class InputError(MythosError, ValueError):
    """An argument or a tensor that a call cannot answer for."""


class CacheError(MythosError, ValueError):
    """A key-value cache that is full, foreign, or contradicted by the call."""


class ShapeError(MythosError, RuntimeError):
    """Two tensors that do not fit; a RuntimeError, as PyTorch's own shape errors are."""


class BusyError(MythosError, RuntimeError):
    """A request that nobody has room for now; the same request may be taken later."""


class LostError(MythosError, RuntimeError):
    """Work that is gone with whoever did it; the same may be asked of another."""


class CheckpointError(MythosError, ValueError):
    """Files on disk that are damaged, foreign, or unsafe to read."""


class DamagedError(CheckpointError):
    """A file that is not as it was written: missing, truncated, altered, or beyond parsing.

    Apart from files that are whole but of no use here: newer, foreign, or unreadable for now.
    """


class MissingExtraError(MythosError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        """Name the package, what needed it, and the pip command that brings it."""
        super().__init__(f'{purpose} needs {package}: pip install "open-mythos[{extra}]"')


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """A ready-to-append hint: the closest known name, or the list of all of them."""
    known = sorted(options)
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
