"""Keys: who may come in; kept as digests, compared in constant time, never shown."""

import hmac
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from open_mythos.errors import ConfigError


VARIABLE = "OPEN_MYTHOS_API_KEYS"
LEAST = 16  # characters: what is shorter can be guessed


class Keys:
    """API keys with a name each, by which logs and limits speak of them."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """From names to keys.

        Raises:
            ConfigError: If a key is too short; it is not shown.
        """
        for name, key in keys.items():
            if len(key) < LEAST or not key.isascii() or not key.isprintable():
                raise ConfigError(
                    f"API key {name!r} has {len(key)} characters or others than printable ASCII; "
                    f"take at least {LEAST}, e.g. from `openssl rand -hex 24`"
                )
        self._digests = [(name, sha256(key.encode()).digest()) for name, key in keys.items()]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._digests)

    def __repr__(self) -> str:
        return f"Keys({len(self._digests)})"

    def name(self, authorization: str | None) -> str | None:
        """Whose key an Authorization header holds; None: nobody's.

        Every key is compared, whichever fits, so that time tells nothing.
        """
        scheme, _, given = (authorization or "").partition(" ")
        digest = sha256(given.strip().encode("utf-8", "replace")).digest()
        found = None
        for name, known in self._digests:
            if hmac.compare_digest(digest, known):
                found = name
        return found if scheme.lower() == "bearer" else None


def read_keys(path: Path | None, environment: Mapping[str, str] | None = None) -> Keys:
    """Keys of a file and of the environment.

    Args:
        path: A line each, `NAME KEY` or the key alone; empty ones and `#` comments count nothing.
        environment: Where OPEN_MYTHOS_API_KEYS is looked up, keys between commas; None: the
            process's own.

    Raises:
        ConfigError: If the file cannot be read, a name stands twice or a key is too short.
    """
    keys: dict[str, str] = {}
    try:
        text = "" if path is None else path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the API keys in {path}: {type(error).__name__}") from error
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if len(words) > 2:
            raise ConfigError(f"line {number} of {path} has {len(words)} words; write NAME KEY")
        if words:
            name = words[0] if len(words) == 2 else f"key-{number}"
            if name in keys:
                raise ConfigError(f"{path} has the name {name!r} twice; give each key its own")
            keys[name] = words[-1]
    if path is not None and not keys:
        raise ConfigError(f"{path} holds no API key; write a line NAME KEY")
    told = (os.environ if environment is None else environment).get(VARIABLE, "")
    for number, key in enumerate((part.strip() for part in told.split(",")), 1):
        if key:
            keys[f"env-{number}"] = key
    return Keys(keys)
