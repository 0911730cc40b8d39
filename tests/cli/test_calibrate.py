"""From a run to a stored exit, and to text that is written with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from open_mythos.cli.calibrate import chosen_kinds, held_out_parts, parse_budget
from open_mythos.cli.main import app
from open_mythos.cli.opening import open_checkpoint
from open_mythos.errors import ConfigError, InputError


def calibrate(run: Path, *words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["calibrate", str(run), *words])
    assert result.exit_code == code, result.output
    return result


def test_a_text_run_stores_its_exit_and_writes_with_it(text_run: Path, tmp_path: Path) -> None:
    numbers, page = tmp_path / "found.json", tmp_path / "found.html"
    shown = calibrate(
        text_run, "--budget", "2%", "--n-loops", "4", "--batches", "3", "--json", str(numbers),
        "--out", str(page), "--exits", "fixed,latent,kl",
    ).stdout  # fmt: skip
    assert "Chosen:" in shown
    assert "right after some loop" in shown
    found = json.loads(numbers.read_text())
    assert list(found["exits"]) == ["fixed", "latent", "kl"]
    assert page.read_text().count("data:image/png") == 2
    opened = open_checkpoint(text_run)
    stored = opened.model.calibrated
    assert stored is not None
    assert (stored.exit.name, stored.n_loops, stored.metric) == (found["chosen"], 4, "loss")
    verified = found["exits"][found["chosen"]]["verified"]
    assert stored.measured["ran"] == found["exits"][found["chosen"]]["ran"] > 0
    assert stored.measured["verified"] == verified
    assert stored.measured["dtype"] == str(opened.model.embed.weight.dtype).removeprefix("torch.")
    assert verified["bound"] <= 0.02
    words = ["--prompt", "KING:\n", "--max-new-tokens", "6", "--temperature", "0"]
    by_exit = CliRunner().invoke(app, ["generate", str(text_run), *words, "--exit", "calibrated"])
    assert by_exit.exit_code == 0, by_exit.output
    named = ["--loops", "4", "--exit", str(stored.exit.name) + f":{stored.exit.threshold!r}"]
    by_name = CliRunner().invoke(app, ["generate", str(text_run), *words, *named])
    assert by_exit.stdout == by_name.stdout
    assert "positions x loops" in by_exit.stderr
    assert "6 passes" in by_exit.stderr


def test_a_task_run_is_judged_by_its_accuracy(task_run: Path, tmp_path: Path) -> None:
    assert "scored positions" in calibrate(task_run, "--batches", "2", code=2).stderr
    out, picture = tmp_path / "parity", tmp_path / "exits.png"
    small = ["model.dim=16", "model.expert_dim=8", "data.batch_size=16", "data.length=8"]
    words = ["train", "task-parity", *small, "steps=1", "device=cpu", "--out", str(out)]
    assert CliRunner().invoke(app, words).exit_code == 0
    wide = ("--budget", "20%", "--batches", "8", "--exits", "fixed,entropy")
    shown = calibrate(out, *wide, "--out", str(picture)).stdout
    assert "held-out rows of 1 to 8 bits: accuracy" in shown
    assert picture.stat().st_size > 1000
    stored = open_checkpoint(out).model.calibrated
    assert stored is not None
    assert (stored.metric, stored.n_loops) == ("accuracy", 4)
    assert stored.measured["verified"]["bound"] <= 0.2


def test_parts_share_no_row(task_run: Path, text_run: Path) -> None:
    for run in (task_run, text_run):
        parts = held_out_parts(open_checkpoint(run), None, None, 2)
        assert len(parts.fit) == len(parts.verify) == 2
        rows = [{tuple(row) for b in half for row in b.ids.tolist()}
                for half in (parts.fit, parts.verify)]  # fmt: skip
        assert not rows[0] & rows[1]


def test_a_text_of_ones_own(text_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("A speech of mine, and another one. " * 3000)
    shown = calibrate(text_run, "--data", str(file), "--budget", "50%", "--exits", "fixed").stdout
    assert "own.txt" in shown
    file.write_text("Too short.")
    with pytest.raises(InputError, match="fills one batch"):
        held_out_parts(open_checkpoint(text_run), file, None, 2)


def test_gates_that_nobody_trained_are_left_out_or_refused(task_run: Path) -> None:
    opened = open_checkpoint(task_run)
    assert opened.model.cfg.readout == "last"
    kinds, left = chosen_kinds("all", opened)
    assert left == ["act", "gate"]
    assert not any(kind.gated for kind in kinds)
    with pytest.raises(InputError, match=r"exit 'gate' needs a gate.*objective\.gate_entropy"):
        chosen_kinds("kl,gate", opened)
    with pytest.raises(ConfigError, match="did you mean 'latent'"):
        chosen_kinds("latnt", opened)
    with torch.no_grad():
        opened.model.recurrent.act.halt.bias.add_(0.1)
    assert chosen_kinds("all", opened)[1] == []


@pytest.mark.parametrize(
    ("text", "value"), [("0.5%", 0.005), ("0.005", 0.005), (" 20% ", 0.2), ("1e-3", 0.001)]
)
def test_budgets(text: str, value: float) -> None:
    assert parse_budget(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["0", "-1%", "100%", "nan", "much", ""])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(ConfigError, match="--budget"):
        parse_budget(text)
