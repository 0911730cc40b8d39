"""Checks of a recipe's numbers: each refusal names the setting, its value and its bound."""

import math

from open_mythos.errors import ConfigError


def at_least(name: str, value: float, least: float) -> None:
    """Refuse a number below its least value, and NaN.

    Raises:
        ConfigError: Naming the setting and its bound.
    """
    if not (math.isfinite(value) and value >= least):
        raise ConfigError(f"{name} is {value}; it must be at least {least}")


def whole(name: str, value: int, least: int) -> None:
    """Refuse what is not an int of at least `least`; 2.0 and True are no ints here.

    Raises:
        ConfigError: Naming the setting and its bound.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    at_least(name, value, least)


def positive(name: str, value: float) -> None:
    """Refuse zero, negative numbers, NaN and infinity.

    Raises:
        ConfigError: Naming the setting.
    """
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} is {value}; it must be positive and finite")


def in_unit(name: str, value: float) -> None:
    """Refuse what lies outside [0, 1].

    Raises:
        ConfigError: Naming the setting.
    """
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} is {value}; it must lie in [0, 1]")
