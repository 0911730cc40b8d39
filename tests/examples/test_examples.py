"""Every example runs: small here, at its full size among the slow tests."""

import importlib
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, list[str]] = {
    "moda": ["--steps", "2", "--dim", "16", "--layers", "2", "--rows", "2"],
    "loops_are_depth": ["--steps", "2", "--rows", "2", "--hops", "1,2"],
    "own_training_loop": ["--steps", "2", "--dim", "16"],
    "early_exit": ["--steps", "2", "--batches", "2", "--budget", "0.3"],
    "own_text": ["--steps", "2", "--vocab", "300", "model.dim=16", "model.expert_dim=16"],
    "inside_the_loop": ["--loops", "3"],
}
WRITES = ("loops_are_depth", "own_training_loop", "early_exit", "own_text")


def run(name: str, words: list[str], folder: Path) -> Any:
    out = ["--out", str(folder / name)] if name in WRITES else []
    main: Callable[[list[str]], Any] = importlib.import_module(f"examples.{name}").main
    return main([*words, *out])


def test_every_example_is_here() -> None:
    assert set(SMALL) == {path.stem for path in (ROOT / "examples").glob("*.py")}


@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, SMALL[name], tmp_path)
    assert len(capsys.readouterr().out.splitlines()) > 2


def test_the_one_at_the_root(capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(ROOT / "example.py"))
    assert names["main"]().shape == (2, 24)
    assert "below 1" in capsys.readouterr().out


@pytest.mark.slow
def test_moda_looks_down() -> None:
    found = run("moda", [], Path())
    assert found["without"] - found["loss"] > 0.5  # it has come to rely on the layers below
    assert max(found["share"]) > 0.2


@pytest.mark.slow
def test_loops_reach_beyond_the_training(tmp_path: Path) -> None:
    found = run("loops_are_depth", [], tmp_path)
    assert found.at(16, 16) > 0.9
    assert found.at(16, 6) < 0.3


@pytest.mark.slow
def test_own_loop_learns(tmp_path: Path) -> None:
    found = run("own_training_loop", [], tmp_path)
    assert found[3] < 5.0  # chance is 6.9


@pytest.mark.slow
def test_an_exit_keeps_its_budget(tmp_path: Path) -> None:
    found = run("early_exit", [], tmp_path)
    assert found.chosen is not None
    verified = found.exits[found.chosen].verified
    assert verified.bound <= found.budget
    assert verified.mean_loops < 6


@pytest.mark.slow
def test_own_text_is_written(tmp_path: Path) -> None:
    text = run("own_text", [], tmp_path)
    assert text.startswith("KING HENRY:")
    assert torch.is_grad_enabled()
