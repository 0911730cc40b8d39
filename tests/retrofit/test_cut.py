"""Every layer is in one part or dropped, in order."""

import pytest
from hypothesis import given, strategies as st

from open_mythos.errors import ConfigError
from open_mythos.retrofit.cut import cut


@given(
    prelude=st.integers(0, 4),
    core=st.integers(1, 4),
    coda=st.integers(0, 4),
    spare=st.integers(0, 4),
)
def test_parts_lie_in_order_and_leave_out_the_rest(
    prelude: int, core: int, coda: int, spare: int
) -> None:
    n = prelude + core + coda + spare
    for start in (None, *range(prelude, prelude + spare + 1)):
        parts = cut(n, prelude, core, coda, start)
        assert [len(parts.prelude), len(parts.core), len(parts.coda)] == [prelude, core, coda]
        assert sorted(parts.kept) == list(parts.kept)
        assert sorted([*parts.kept, *parts.dropped]) == list(range(n))
        assert list(parts.prelude) == list(range(prelude))
        assert list(parts.coda) == list(range(n - coda, n))
        if start is None:
            assert parts.core.stop == n - coda
        else:
            assert parts.core.start == start


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        ((5, 2, 2, 2), "6"),
        ((5, 2, 0, 2), "core"),
        ((9, 2, 2, 2, 1), "2 .. 5"),
        ((9, 2, 2, 2, 6), "6"),
    ],
)
def test_what_does_not_fit_is_refused(given_: tuple[int, ...], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        cut(*given_)
