import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from open_mythos.cli.main import app
from open_mythos.cli.opening import open_checkpoint


def call(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["doctor", "--device", "cpu", *words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def broken(task_run: Path, tmp_path: Path) -> Path:
    """A model folder with the task run's weights, but for a router that knows two experts."""
    model = open_checkpoint(task_run).model
    model.recurrent.block.ffn.router_bias.copy_(torch.tensor([1e3, 1e3, 0.0, 0.0]))
    model.save_pretrained(tmp_path / "broken")
    return tmp_path / "broken"


def test_a_text_run_is_examined_on_what_it_held_out(text_run: Path, tmp_path: Path) -> None:
    found = tmp_path / "new" / "found.json"
    shown = call(str(text_run), "--json", str(found))
    assert "sound" in shown
    assert "held-out text" in shown
    record = json.loads(found.read_text())
    assert record["sound"] is True
    assert record["measurements"]["trained"] == 3
    assert record["measurements"]["loops"] == 12


def test_a_fault_is_named_first_and_is_the_exit_code(broken: Path, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    shown = call(str(broken), "--recipe", "demo-task", "--json", str(found), code=1)
    record = json.loads(found.read_text())
    assert record["sound"] is False
    assert record["findings"][0]["kind"] == "collapsed_router"
    assert shown.index("collapsed_router") < shown.index("what was measured")


def test_a_text_of_ones_own_and_a_depth_of_ones_own(text_run: Path, tmp_path: Path) -> None:
    file, found, page = tmp_path / "own.txt", tmp_path / "found.json", tmp_path / "found.html"
    file.write_text("A speech of mine, and another one. " * 30)
    call(
        str(text_run), "--data", str(file), "--loops", "2", "--json", str(found), "--out", str(page)
    )
    assert page.read_text().startswith("<!")
    assert json.loads(found.read_text())["measurements"]["trained"] == 2


def test_what_cannot_be_examined_on_is_refused(
    text_run: Path, task_run: Path, tmp_path: Path
) -> None:
    both = call(str(text_run), "--data", "x.txt", "--recipe", "cpu-tiny", code=2)
    assert "give one of them" in both
    foreign = call(str(task_run), "--recipe", "cpu-tiny", code=2)
    assert "1024 tokens, the model 132" in " ".join(foreign.split())
    bare = tmp_path / "bare"
    shutil.copytree(open_checkpoint(task_run).folder, bare)
    assert "no tokenizer" in call(str(bare), code=2)
