"""CheckedFields on a config of its own: every kind refuses what the others take."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest

from open_mythos.config.fields import INTEGER, REAL, CheckedFields, of_kind
from open_mythos.errors import ConfigError


@dataclass
class Shelf(CheckedFields):
    """One field of each kind."""

    boards: int = 3
    drawers: int | None = None
    depth: float = 0.4
    slope: float | None = None
    closed: bool = False
    wood: Literal["oak", "ash"] = "oak"

    def validate(self) -> None:
        super().validate()
        self.check_least(("drawers",))
        self.check_signs(("depth",), ("slope",))


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("boards", [1, 10**9], [0, -1, 2.0, True, "2", None]),
        ("drawers", [None, 0, 4], [-1, 2.0, False, "2"]),
        ("depth", [1, 1e-9], [0, -0.1, True, "1", None, float("nan"), float("inf")]),
        ("slope", [None, 0, 0.5], [-1e-9, False, "1", float("-inf")]),
        ("closed", [True, False], [0, 1, None, "no"]),
        ("wood", ["oak", "ash"], ["fir", None, 1]),
    ],
)
def test_a_kind_takes_its_own(name: str, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        assert getattr(replace(Shelf(), **{name: value}), name) == value
    for value in wrong:
        with pytest.raises(ConfigError, match=name) as caught:
            Shelf(**{name: value})
        assert str(value) in str(caught.value)


def test_names_are_its_own() -> None:
    shelf = Shelf()
    with pytest.raises(ConfigError, match="Shelf has no field 'board'; did you mean 'boards'"):
        shelf.board = 2  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="Shelf has no field 'woods'; did you mean 'wood'"):
        Shelf.from_dict({"woods": "ash"})


def test_plain_values_make_an_equal_one_of_the_same_class() -> None:
    shelf = Shelf(drawers=2, slope=0.25, closed=True, wood="ash")
    again = Shelf.from_dict(shelf.to_dict())
    assert type(again) is Shelf
    assert again == shelf


def test_kinds_are_read_from_annotations() -> None:
    assert of_kind(Shelf, *INTEGER) == ("boards", "drawers")
    assert of_kind(Shelf, *REAL) == ("depth", "slope")
    assert of_kind(Shelf, bool) == ("closed",)
