"""Settings from outside: a YAML file and `a.b.c=value` pairs onto a tree of dataclasses."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from open_mythos.errors import ConfigError, did_you_mean


Config = TypeVar("Config")


class _Loader(yaml.SafeLoader):
    """Safe YAML whose floats include 1e-3, which YAML 1.1 reads as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def configure(base: Config, file: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """A checked copy of `base` with a YAML file's settings, then the overrides, laid over it.

    Args:
        base: A dataclass instance, nested or not, frozen or not; it is left as it was.
        file: YAML mapping with any part of the tree; a nested mapping changes only what it names.
        overrides: `dotted.path=value` texts; the value is YAML, the last word on a path wins.

    Raises:
        ConfigError: On an unknown key (with its full path and the closest known one), a value
            of the wrong type or out of range, or a file that cannot be read.
    """
    values = to_plain(base)
    if file is not None:
        _lay_over(values, read_yaml(file))
    for text in overrides:
        path, value = split_override(text)
        _lay_over(values, _nested(type(base), path, value))
    return from_plain(type(base), values)


def from_plain(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a dataclass tree from plain values; every field is checked, no key is ignored.

    Raises:
        ConfigError: Listing each wrong path with what was expected there.
    """
    _refuse_strangers(kind, values, "", _paths(kind))
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        lines = [_say(detail) for detail in error.errors(include_url=False)]
        raise ConfigError("; ".join(lines)) from None


def to_plain(config: object) -> dict[str, Any]:
    """The tree as dicts, lists and scalars, ready for YAML or JSON."""
    # No warnings: a list where a tuple is declared is checked, and mended, by from_plain.
    plain = TypeAdapter(type(config)).dump_python(config, mode="json", warnings=False)
    return cast("dict[str, Any]", plain)


def to_yaml(config: object) -> str:
    """The tree as YAML that `configure` reads back to an equal one."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file's mapping; an empty file is an empty one.

    Raises:
        ConfigError: If the file is missing, is not YAML, or holds something else than a mapping.
    """
    try:
        values = _parse(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{file} must hold `name: value` lines, not {type(values).__name__}")
    return values


def split_override(text: str) -> tuple[list[str], str]:
    """`a.b=1` -> (["a", "b"], "1"); the value is still text.

    Raises:
        ConfigError: If there is no `=` or a name is empty.
    """
    path, found, value = text.partition("=")
    names = path.strip().split(".")
    if not found or not all(names):
        raise ConfigError(f"override {text!r} is not of the form name=value or part.name=value")
    return names, value


# -- laying one tree over another -----------------------------------------------------------------


def _parse(text: str) -> Any:
    # _Loader is a SafeLoader: plain values only, no Python objects.
    return yaml.load(text, Loader=_Loader)


def _value(text: str) -> Any:
    """What a text says as YAML; what is not YAML is the text itself."""
    try:
        return _parse(text)
    except yaml.YAMLError:
        return text


def _lay_over(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, change in changes.items():
        below = values.get(key)
        if isinstance(below, dict) and isinstance(change, dict):
            _lay_over(below, change)
        else:
            values[key] = change


def _nested(kind: object, path: Sequence[str], text: str) -> dict[str, Any]:
    """The override as a tree; a field declared as text keeps its characters (`name=007`).

    Where a tuple is declared, `1,4,8` or a single value will do for `[1,4,8]`; one of texts takes a
    value without brackets as a single text, commas and all.
    """
    hint: object = kind
    for name in path:
        known = {key: inner for part in _dataclasses(hint) for key, inner in _hints(part)}
        hint = known.get(name, Any)
    value = _value(text)
    if str in _members(hint) and not isinstance(value, (str, NoneType)):
        value = text
    if get_origin(hint) is tuple and not isinstance(value, list):
        value = [text] if str in get_args(hint) else _value(f"[{text}]")
    for name in reversed(path):
        value = {name: value}
    return cast("dict[str, Any]", value)


# -- refusing what the tree does not have ---------------------------------------------------------


def _refuse_strangers(hint: object, value: object, path: str, tree: Sequence[str]) -> None:
    """Walk values beside types: pydantic would drop unknown keys and count True as 1."""
    members = _members(hint)
    if isinstance(value, Mapping):
        known = {name: inner for part in _dataclasses(hint) for name, inner in _hints(part)}
        for key, below in value.items():
            here = f"{path}.{key}" if path else str(key)
            if known and key not in known:
                raise ConfigError(f"unknown setting {here!r}; {_suggest(path, key, known, tree)}")
            inner = known[key] if known else _last_argument(members)
            _refuse_strangers(inner, below, here, tree)
    elif isinstance(value, (list, tuple)):
        for index, below in enumerate(value):
            _refuse_strangers(_last_argument(members), below, f"{path}.{index}", tree)
    elif isinstance(value, bool) and {int, float} & set(members) and bool not in members:
        raise ConfigError(f"{path} must be a number, not {value!r}")


def _suggest(path: str, key: str, known: Iterable[str], tree: Sequence[str]) -> str:
    """The setting of that name elsewhere in the tree, or the closest one at this level."""
    elsewhere = [full for full in tree if full.rpartition(".")[2] == key]
    if elsewhere:
        return f"did you mean {elsewhere[0]!r}?"
    prefix = f"{path}." if path else ""
    return did_you_mean(f"{prefix}{key}", [f"{prefix}{name}" for name in known])


def _members(hint: object) -> tuple[object, ...]:
    """The alternatives of a union, or the hint alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _paths(hint: object, prefix: str = "") -> list[str]:
    """Every dotted path of a tree of dataclass types."""
    here = [
        (f"{prefix}{name}", inner) for part in _dataclasses(hint) for name, inner in _hints(part)
    ]
    return [p for path, inner in here for p in (path, *_paths(inner, f"{path}."))]


def _dataclasses(hint: object) -> list[type]:
    return [m for m in _members(hint) if isinstance(m, type) and is_dataclass(m)]


def _hints(part: type) -> list[tuple[str, object]]:
    """Name and type of every field that the constructor takes."""
    types = get_type_hints(part)
    return [(f.name, types[f.name]) for f in fields(cast("Any", part)) if f.init]


def _last_argument(members: Sequence[object]) -> object:
    """The item type of a list, tuple or mapping type: list[X] -> X, dict[str, X] -> X."""
    inner = [a for m in members for a in get_args(m) if a is not Ellipsis]
    return inner[-1] if inner else Any


def _say(detail: Mapping[str, Any]) -> str:
    """One pydantic error as `path: what is wrong`; our own messages name their field already."""
    path = ".".join(str(part) for part in detail["loc"])
    own = detail.get("ctx", {}).get("error")
    if isinstance(own, Exception):
        return f"{path}: {own}" if path else str(own)
    message = str(detail["msg"])
    return f"{path}: {message[:1].lower()}{message[1:]}, not {detail['input']!r}"
