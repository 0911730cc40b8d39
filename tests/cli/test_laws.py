import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from open_mythos.cli.main import app
from open_mythos.laws.law import TEST_TIME, TRAINING
from open_mythos.laws.published import PARCAE
from open_mythos.train.checkpoints import RunFolder
from open_mythos.train.sinks import read_metrics


FEW = ("--resamples", "20")


def call(*words: object) -> Any:
    return CliRunner().invoke(app, ["laws", *map(str, words)], env={"COLUMNS": "120"})


def numbers(folder: Path, *words: object) -> Any:
    """What `--json` has to say."""
    file = folder / "new" / "numbers.json"
    result = call(*words, "--json", file, *FEW)
    assert result.exit_code == 0, result.output
    return json.loads(file.read_text())


@pytest.fixture
def curves(tmp_path: Path) -> Path:
    """Two runs at five depths, without noise."""
    loops = np.array([1.0, 2.0, 3.0, 4.0, 8.0])
    lines = ["run,loops,loss"]
    for run, floor in (("deep", 2.5), ("flat", 3.0)):
        loss = TEST_TIME.predict({"Linf": floor, "Z": 1.0, "z": 0.7}, {"loops": loops})
        lines += [f"{run},{n},{value}" for n, value in zip(loops, loss, strict=True)]
    path = tmp_path / "curves.csv"
    path.write_text("\n".join(lines))
    return path


def test_a_table_is_fitted_and_drawn(curves: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "law.svg"
    result = call("test-time", curves, "--out", out, *FEW)
    assert result.exit_code == 0, result.output
    assert "L(T) = Linf + Z exp(-z T)" in result.stdout
    assert "half_life" in result.stdout
    assert "5 points; residuals" in result.stdout
    assert "note: 5 points for 3 constants" in result.stdout
    assert str(out) in result.stdout.replace("\n", "")
    assert "<svg" in out.read_text()


def test_json_has_the_constants_with_their_intervals(curves: Path, tmp_path: Path) -> None:
    record = numbers(tmp_path, "test-time", curves)
    assert record["equation"] == TEST_TIME.equation
    deep, flat = record["fits"]
    assert (deep["name"], flat["name"]) == ("deep", "flat")
    assert deep["constants"]["Linf"]["value"] == pytest.approx(2.5)
    for fitted in (deep, flat):
        assert (fitted["points"], fitted["resamples"]) == (5, 20)
        assert fitted["fitted"] == pytest.approx(fitted["loss"])
        for entry in (fitted["constants"] | fitted["derived"]).values():
            assert entry["low"] <= entry["value"] * (1 + 1e-6)
            assert entry["value"] <= entry["high"] * (1 + 1e-6)


def test_tables_of_one_law_are_pooled(tmp_path: Path) -> None:
    loops, tokens = (x.ravel() for x in np.meshgrid([1.0, 2.0, 4.0, 8.0], [1e9, 4e9, 2e10]))
    once, looped = np.full(12, 1.3e8), np.full(12, 1.4e7)
    inputs = {"params": once + loops * looped, "tokens": tokens}
    loss = TRAINING.predict(PARCAE["140M"], inputs)
    rows = [
        ",".join(map(repr, map(float, row)))
        for row in zip(loops, tokens, once, looped, loss, strict=True)
    ]
    head = "mean_loops,tokens,params_once,params_looped,loss"
    for number, part in enumerate((rows[:5], rows[5:])):
        (tmp_path / f"{number}.csv").write_text("\n".join([head, *part]))
    (fitted,) = numbers(tmp_path, "training", tmp_path / "0.csv", tmp_path / "1.csv")["fits"]
    found = {name: entry["value"] for name, entry in fitted["constants"].items()}
    assert found == pytest.approx(dict(PARCAE["140M"]), rel=1e-3)


def test_a_run_folder_is_read(text_run: Path, tmp_path: Path) -> None:
    # A run of two steps is judged once at its end; what it lacks are depths, which are written in.
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("recipe.yaml", "metrics.jsonl"):
        (copy / name).write_text((text_run / name).read_text())
    record = next(r for r in read_metrics(RunFolder(copy).metrics_file) if r["kind"] == "step")
    depths = {f"validation/loss_at_{n}": 3.0 + 0.5**n for n in (1, 2, 4, 8)}
    judged = {"kind": "eval", "step": 2, "values": depths | {"validation/loss": 3.25}}
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(judged) + "\n")
    (fitted,) = numbers(tmp_path, "test-time", copy)["fits"]
    assert fitted["name"] == str(copy)
    assert fitted["constants"]["z"]["value"] == pytest.approx(np.log(2), rel=1e-4)
    few = call("training", copy, *FEW)
    assert few.exit_code == 2
    assert "training has 1 points" in few.stderr
    assert record["tokens"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["test-time", "nowhere.csv"], "cannot read nowhere.csv"),
        (["test-time", "nowhere"], "metrics.jsonl"),
        (["training", "CURVES"], "has no 'params'"),
        (["test-time", "CURVES", "--level", "2"], "level is 2.0"),
        (["test-time", "CURVES", "--out", "x.gif"], "ends in none of .png"),
    ],
)
def test_mistakes_are_one_line(curves: Path, words: list[str], said: str) -> None:
    result = call(*(str(curves) if word == "CURVES" else word for word in words), *FEW)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
