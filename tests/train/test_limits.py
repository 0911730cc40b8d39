import math
import re
from collections.abc import Callable

import pytest

from open_mythos.errors import ConfigError
from open_mythos.train.limits import at_least, in_unit, positive, whole


@pytest.mark.parametrize(
    ("check", "good", "bad", "words"),
    [
        (lambda v: at_least("a.b", v, 2), [2, 2.5, 1e9], [1.9, -1, math.nan], "at least 2"),
        (lambda v: whole("a.b", v, 2), [2, 10**30], [1, 2.0, True, "3", None], "at least 2"),
        (lambda v: positive("a.b", v), [1e-300, 7], [0, -1.0, math.nan, math.inf], "positive"),
        (lambda v: in_unit("a.b", v), [0, 1, 0.5], [-1e-9, 1.1, math.nan], "[0, 1]"),
    ],
)  # fmt: skip
def test_a_limit_names_the_setting_its_value_and_the_limit(
    check: Callable[[object], None], good: list[object], bad: list[object], words: str
) -> None:
    for value in good:
        check(value)
    for value in bad:
        shown = rf"a\.b is {re.escape(repr(value))}; it must .*{re.escape(words)}"
        with pytest.raises(ConfigError, match=shown):
            check(value)
