"""A table says what was noted, by loops in order."""

from open_mythos.eval.score_table import ScoreTable


def test_rows_have_a_value_or_a_gap_for_each_number_of_loops() -> None:
    table = ScoreTable()
    table.note("b", 8, {"acc": 0.5})
    table.note("a", 1, {"acc": 0.25, "bits": 2})
    table.note("b", 1, {"acc": 0.75})
    assert table.loops == [1, 8]
    assert table.rows() == [
        ("b", "acc", [0.75, 0.5]),
        ("a", "acc", [0.25, None]),
        ("a", "bits", [2.0, None]),
    ]
    assert table.to_json() == {
        "b": {"acc": {"1": 0.75, "8": 0.5}},
        "a": {"acc": {"1": 0.25}, "bits": {"1": 2.0}},
    }
