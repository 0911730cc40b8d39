import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from open_mythos.cli.main import app
from open_mythos.cli.opening import open_checkpoint
from open_mythos.eval.perplexity import score
from open_mythos.train.sources import build_sources


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["sweep", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_text_is_scored_at_every_depth_on_what_the_run_held_out(text_run: Path) -> None:
    found = json.loads(run(str(text_run), "--loops", "1,3", "--batches", "2", "--json"))
    opened = open_checkpoint(text_run)
    assert opened.recipe is not None
    batches = list(build_sources(opened.recipe).evaluation.evaluation_batches())[:2]
    for point, n in zip(found["points"], (1, 3), strict=True):
        assert point["n_loops"] == n
        assert point["loss"] == pytest.approx(score(opened.model, batches, n).loss, abs=1e-6)


def test_a_task_gives_accuracy_by_difficulty_and_depth(task_run: Path) -> None:
    found = json.loads(run(str(task_run), "--loops", "2,1", "--batches", "1", "--json"))
    assert found["loops"] == [1, 2]
    assert found["difficulties"] == [1, 2, 4, 8]
    assert all(0.0 <= cell <= 1.0 for row in found["accuracy"] for cell in row)


def test_each_of_mixed_tasks_is_mapped_by_itself(mixed_run: Path) -> None:
    words = (str(mixed_run), "--loops", "1,2", "--batches", "1", "--json")
    found = json.loads(run(*words, "--task", "words"))
    assert found["difficulties"] == [1, 2, 4, 8, 16]
    # Of products of one factor nine fit into a row of 18 positions, and two rows are asked.
    assert found["n"] == 2 * 9
    other = json.loads(run(*words, "--task", "sums"))
    assert other != found


def test_a_task_that_ends_is_mapped_up_to_its_end(tmp_path: Path) -> None:
    out = tmp_path / "maze"
    small = ["model.dim=16", "model.expert_dim=8", "data.batch_size=2", "steps=1", "device=cpu"]
    words = ["train", "task-maze", *small, "data.task.max_level=5", "--out", str(out)]
    assert CliRunner().invoke(app, words).exit_code == 0
    found = json.loads(run(str(out), "--loops", "1,2", "--batches", "1", "--json"))
    # Mazes of 16 cells are asked for ways of up to ten steps, not for four times five.
    assert found["difficulties"] == [1, 2, 5, 10]
    assert found["n"] == 2 * 16


def test_tables_show_every_depth(text_run: Path, task_run: Path) -> None:
    text = run(str(text_run), "--loops", "1,2", "--batches", "1")
    assert "perplexity" in text
    assert "best" in text
    task = run(str(task_run), "--loops", "1,2", "--batches", "1")
    assert "2 loops" in task


def test_a_foreign_text_can_be_scored(text_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("A speech of mine, and another one. " * 30)
    found = json.loads(run(str(text_run), "--loops", "1", "--text", str(file), "--json"))
    assert found["points"][0]["n"] > 50
