"""Columns of the rows' table lie side by side, and none over another."""

from open_mythos.kernels.columns import CHANGING, STOPS, WIDTH, At, Out


def test_columns_fill_the_table() -> None:
    assert [*At] == [*range(WIDTH - STOPS + 1)]
    assert [at.name for at in At if at < CHANGING][-1] == "LEFT"


def test_the_count_of_those_waiting_is_the_last_line() -> None:
    assert [*Out] == [*range(Out.WAITING + 1)]
