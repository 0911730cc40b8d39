from pathlib import Path

import pytest

from open_mythos.errors import InputError
from open_mythos.laws.law import ISO_DEPTH, TEST_TIME, TRAINING
from open_mythos.laws.points import Row, points_of, read_csv


def written(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_is_read_with_its_blanks(tmp_path: Path) -> None:
    text = "\ufeffrun, loops ,loss\na,1,3.5\n\na, 2,3.25\nb,1,\n,4,2e0\n"
    rows = read_csv(written(tmp_path, text))
    assert [(row.run, dict(row.values)) for row in rows] == [
        ("a", {"loops": 1.0, "loss": 3.5}),
        ("a", {"loops": 2.0, "loss": 3.25}),
        ("b", {"loops": 1.0}),
        ("t", {"loops": 4.0, "loss": 2.0}),
    ]
    assert rows[1].place == f"line 4 of {tmp_path / 't.csv'}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column 'loss', but nothing"),
        ("loops,los\n1,2\n", "no column 'loss', but loops, los"),
        ("loop,loss\n1,2\n", "column 'loop', .*did you mean 'loops'"),
        ("loops,loss\n1,2\n2,zwei\n", "line 3 of .*loss is 'zwei'; it must be a positive number"),
        ("loops,loss\n0,2\n", "line 2 of .*loops is '0'"),
        ("loops,loss\n1,nan\n", "loss is 'nan'"),
        ("mean_loops,loss\n0,2\n", "mean_loops is '0'"),
        ("loops,loss\n1,2,3\n", "line 2 of .*more than the 2 cells"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_csv(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nowhere\.csv"):
        read_csv(tmp_path / "nowhere.csv")


def test_every_run_is_a_curve_of_its_own() -> None:
    rows = [
        Row(run, {"loops": loops, "loss": 10.0 * loops}, "here")
        for run, loops in (("a", 1.0), ("b", 4.0), ("a", 2.0))
    ]
    found = points_of(TEST_TIME, rows)
    assert [p.name for p in found] == ["a", "b"]
    assert [p.inputs["loops"].tolist() for p in found] == [[1.0, 2.0], [4.0]]
    assert found[0].loss.tolist() == [10.0, 20.0]
    assert len(found[0]) == 2


def test_unrolled_parameters_follow_from_their_parts() -> None:
    parts = {"loss": 3.0, "tokens": 1e9, "params_once": 100.0, "params_looped": 10.0}
    rows = [
        Row("a", parts | {"mean_loops": 4.0}, "here"),
        Row("b", parts | {"loops": 6.0}, "here"),
        Row("c", {"loss": 3.0, "tokens": 1e9, "params": 7.0}, "here"),
    ]
    (found,) = points_of(TRAINING, rows)
    assert found.inputs["params"].tolist() == [140.0, 160.0, 7.0]
    assert found.inputs.keys() == {"params", "tokens"}
    (grid,) = points_of(ISO_DEPTH, rows[:2])
    assert grid.inputs["loops"].tolist() == [4.0, 6.0]
    assert "mean_loops" in grid.inputs


def test_what_a_row_lacks_is_named() -> None:
    with pytest.raises(InputError, match=r"line 9 has no 'tokens', .*training"):
        points_of(TRAINING, [Row("a", {"loss": 3.0, "params": 1e6}, "line 9")])
    with pytest.raises(InputError, match=r"no 'params' \(or mean_loops, params_once"):
        points_of(TRAINING, [Row("a", {"loss": 3.0, "tokens": 1e9}, "line 9")])
    with pytest.raises(InputError, match="no points"):
        points_of(TEST_TIME, [])
