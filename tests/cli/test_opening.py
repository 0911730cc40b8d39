import shutil
from pathlib import Path

import pytest
import torch

from open_mythos.cli import opening
from open_mythos.cli.opening import open_checkpoint
from open_mythos.errors import CheckpointError, ConfigError, InputError


def test_a_run_folder_its_checkpoint_and_an_exported_copy_are_one_model(
    text_run: Path, tmp_path: Path
) -> None:
    run = open_checkpoint(text_run)
    direct = open_checkpoint(run.folder)
    run.model.save_pretrained(tmp_path / "copy")
    copy = open_checkpoint(tmp_path / "copy")
    ids = torch.randint(0, run.model.cfg.vocab_size, (2, 5))
    expected = run.model(ids)
    assert torch.equal(direct.model(ids), expected)
    assert torch.equal(copy.model(ids), expected)
    assert run.recipe is not None
    assert direct.recipe == run.recipe
    assert copy.recipe is None


def test_a_model_is_quantised_when_asked_and_its_share_is_said(
    text_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(opening, "quantize", lambda model, kind: seen.append(kind) or "84 %")
    open_checkpoint(text_run)
    assert (seen, capsys.readouterr().err) == ([], "")
    open_checkpoint(text_run, quantised="int8")
    assert (seen, capsys.readouterr().err) == (["int8"], "84 %\n")


def test_a_task_model_says_that_it_has_no_tokenizer(task_run: Path) -> None:
    opened = open_checkpoint(task_run)
    with pytest.raises(InputError, match="no tokenizer"):
        _ = opened.tokenizer


def test_one_of_mixed_tasks_is_chosen_by_its_name(mixed_run: Path, task_run: Path) -> None:
    opened = open_checkpoint(mixed_run)
    assert opened.on_task(None) is opened
    chosen = opened.on_task("sums").recipe
    assert chosen is not None
    assert chosen.data.build_task(0).course(5) == "sums"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="only is 'sum'"):
        opened.on_task("sum")
    with pytest.raises(InputError, match="not trained on mixed tasks"):
        open_checkpoint(task_run).on_task("sums")


def test_the_words_of_mixed_tasks_are_read_and_written(mixed_run: Path) -> None:
    opened = open_checkpoint(mixed_run)
    ids = opened.tokenizer.encode("sums:^ sums:2 parity:1")
    assert opened.tokenizer.decode(ids) == "sums:^ sums:2 parity:1"
    assert opened.tokenizer.vocab_size == opened.model.cfg.vocab_size


def test_a_path_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)
    old = tmp_path / "model.pt"
    old.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="convert"):
        open_checkpoint(old)


def test_a_model_that_is_handed_on_brings_its_recipe_and_a_text_to_judge_it_on(
    text_run: Path, tmp_path: Path
) -> None:
    run = open_checkpoint(text_run)
    folder = tmp_path / "handed-on"
    run.model.save_pretrained(folder)
    assert open_checkpoint(folder).held_out is None
    shutil.copy(text_run / "recipe.yaml", folder)
    (folder / "held-out.txt").write_text("One document.\fAnother one.", encoding="utf-8")
    opened = open_checkpoint(folder)
    assert opened.recipe == run.recipe
    assert opened.held_out == folder / "held-out.txt"
