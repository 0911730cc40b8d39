import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from open_mythos.cli import sweep as swept
from open_mythos.cli.main import app
from open_mythos.cli.opening import open_checkpoint
from open_mythos.config.budget import flops_per_token
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


@pytest.mark.parametrize("share", [0.1, 0.7, 3.2, 1e4])
def test_untold_it_scores_what_takes_seconds(
    text_run: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """FLOPs of all depths together stay within the budget, unless that is less than a few rows."""
    opened = open_checkpoint(text_run)
    data = swept.own_data(opened)
    assert isinstance(data, swept.TokenWindows)
    cfg, length, own = opened.model.cfg, data.seq_len, 16
    data = swept.in_passes_of(data, own)
    row = sum(length * flops_per_token(cfg, n, length).total for n in (1, 4))
    monkeypatch.setattr(swept, "FLOPS", share * own * row)
    found, count = swept.within_seconds(cfg, data, (1, 4))
    assert isinstance(found, swept.TokenWindows)
    rows = count * found.batch_size
    assert rows == min(max(4, int(share * own)) if share < 1 else int(share) * own, 8 * own)


def test_on_a_cpu_weights_of_16_bits_are_read_as_numbers_of_32(
    text_run: Path, tmp_path: Path
) -> None:
    opened = open_checkpoint(text_run)
    opened.model.to(torch.bfloat16).save_pretrained(tmp_path)
    read = open_checkpoint(tmp_path, "cpu").model
    for a, b in zip(read.parameters(), opened.model.parameters(), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b.float())
