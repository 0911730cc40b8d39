"""CheckedFields: what configs of networks share: names that are known, values of the kind declared.

Kinds are read from annotations: `int`, `float`, `bool`, a `Literal` of strings, or one of the first
two `| None`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args, get_origin

from open_mythos.errors import ConfigError, did_you_mean


@dataclass
class CheckedFields:
    """A config that takes no unknown name, and checks itself when it is made.

    A subclass is a dataclass, and its `validate` says what can be built.
    """

    def __post_init__(self) -> None:
        self.validate()

    def __setattr__(self, name: str, value: object) -> None:
        if name not in type(self).__dataclass_fields__:
            raise self._unknown(name)
        object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON or YAML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values.

        Raises:
            ConfigError: On an unknown key (with the closest known one) or a value out of range.
        """
        for key in values:
            if key not in cls.__dataclass_fields__:
                raise cls._unknown(key)
        return cls(**values)

    def validate(self) -> None:
        """Refuse what cannot be built.

        Raises:
            ConfigError: Naming the field, its value and the way out.
        """
        self.check_kinds()

    def check_kinds(self) -> None:
        """Refuse a value that is not of its field's kind, or a number that is not finite."""
        for field in fields(self):
            name, value, kind = field.name, getattr(self, field.name), field.type
            if get_origin(kind) is Literal:
                if value not in get_args(kind):
                    options = " or ".join(repr(choice) for choice in get_args(kind))
                    raise ConfigError(f"{name} is {options}, not {value!r}")
            elif kind is bool:
                if not isinstance(value, bool):
                    raise ConfigError(f"{name} is True or False, not {value!r}")
            elif value is not None or kind in (int, float):
                _check_number(name, value, whole=kind in INTEGER)

    def check_least(self, may_be_zero: Iterable[str]) -> None:
        """Refuse integers below 1, or below 0 where they may be zero."""
        for name in of_kind(type(self), *INTEGER):
            least, value = 0 if name in may_be_zero else 1, getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")

    def check_signs(self, positive: Iterable[str], not_negative: Iterable[str]) -> None:
        """Refuse numbers on the wrong side of zero."""
        for name in positive:
            if getattr(self, name) <= 0.0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in not_negative:
            value = getattr(self, name)
            if value is not None and value < 0.0:
                raise ConfigError(f"{name} is {value}; it must not be negative")

    @classmethod
    def _unknown(cls, name: str) -> ConfigError:
        hint = did_you_mean(name, cls.__dataclass_fields__)
        return ConfigError(f"{cls.__name__} has no field {name!r}; {hint}")


INTEGER: tuple[Any, ...] = (int, int | None)
REAL: tuple[Any, ...] = (float, float | None)


def of_kind(config: type[CheckedFields], *kinds: Any) -> tuple[str, ...]:
    """Names of the fields of a config that are annotated as one of `kinds`."""
    return tuple(field.name for field in fields(config) if field.type in kinds)


def _check_number(name: str, value: object, *, whole: bool) -> None:
    if whole:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"{name} must be an int, not {value!r} ({type(value).__name__})")
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} must be a number, not {value!r}")
    elif not math.isfinite(value):
        raise ConfigError(f"{name} must be finite, not {value!r}")
