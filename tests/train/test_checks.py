import math
from collections.abc import Callable
from typing import Any

import pytest

from open_mythos.errors import ConfigError
from open_mythos.train.checks import at_least, in_unit, positive, whole


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (lambda x: at_least("x", x, 2), [2, 2.5, 1e9], [1.99, -3, math.nan, math.inf]),
        (lambda x: whole("x", x, 1), [1, 7], [0, 1.0, True, "1", None]),
        (lambda x: positive("x", x), [1e-9, 3], [0, -1, math.nan, math.inf]),
        (lambda x: in_unit("x", x), [0, 0.5, 1], [-0.1, 1.1, math.nan]),
    ],
)
def test_what_is_refused_is_named(
    check: Callable[[Any], None], good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ConfigError, match=rf"x is {value!r}".replace(".", r"\.")):
            check(value)
