import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from open_mythos.checkpoint import store
from open_mythos.checkpoint.files import check_folder, write_manifest
from open_mythos.checkpoint.store import write_tensors
from open_mythos.config.overrides import read_yaml, to_plain
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.tokenizer import tokenizer_from_folder
from open_mythos.errors import CheckpointError, ConfigError
from open_mythos.train.build import build_state
from open_mythos.train.checkpoints import (
    Best,
    RunFolder,
    better,
    flatten,
    judged,
    load_checkpoint,
    newest_checkpoint,
    read_recipe,
)
from open_mythos.train.recipe import Recipe
from open_mythos.train.sources import build_sources
from open_mythos.train.state import TrainState
from open_mythos.train.step import train_step


CPU = torch.device("cpu")


@pytest.fixture
def folder(run: Path, tiny: Recipe) -> RunFolder:
    found = RunFolder(run)
    assert found.begin("new", tiny) is False
    return found


@pytest.fixture
def state(tiny: Recipe, stand_in: Any) -> TrainState:
    return build_state(tiny, build_sources(tiny).train, CPU, lambda r: stand_in(r.model))


def advance(state: TrainState, recipe: Recipe, steps: int) -> None:
    for _ in range(steps):
        train_step(state, build_sources(recipe).train, recipe)


def test_a_run_leaves_what_it_says(folder: RunFolder, state: TrainState, tiny: Recipe) -> None:
    advance(state, tiny, 3)
    path = folder.save(state, tiny, ByteTokenizer())
    folder.note_environment(CPU, 0)
    folder.note_environment(CPU, 3)
    assert path == folder.checkpoints / "step_0000003"
    assert {p.name for p in path.iterdir()} >= {
        "model.safetensors",
        "config.json",
        "optimizer.safetensors",
        "state.json",
        "manifest.json",
    }
    check_folder(path)
    assert folder.latest_file.read_text() == "checkpoints/step_0000003\n"
    assert tokenizer_from_folder(path).encode("ab") == [97, 98]
    assert [s["step"] for s in json.loads(folder.env_file.read_text())["starts"]] == [0, 3]
    assert read_recipe(folder.root) == tiny
    assert newest_checkpoint(folder.root) == path


def test_a_state_comes_back_whole(
    folder: RunFolder, state: TrainState, tiny: Recipe, stand_in: Any
) -> None:
    advance(state, tiny, 4)
    saved = {k: v.clone() for k, v in {**state.model.state_dict(), **state.tensors()}.items()}
    counters = state.counters()
    folder.save(state, tiny)
    other = build_state(
        replace(tiny, seed=8), build_sources(tiny).train, CPU, lambda r: stand_in(r.model)
    )
    load_checkpoint(folder.steps()[4], other)
    found = {**other.model.state_dict(), **other.tensors()}
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[k], saved[k]) for k in saved)
    assert other.counters() == counters


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_the_newest_so_many_are_kept(
    folder: RunFolder, state: TrainState, tiny: Recipe, keep: int
) -> None:
    recipe = replace(tiny, keep_last=keep)
    for _ in range(5):
        advance(state, recipe, 1)
        folder.save(state, recipe)
    assert list(folder.steps()) == list(range(1, 6))[-keep:]


def test_steps_sort_by_number_and_strangers_are_not_steps(folder: RunFolder) -> None:
    for name in ("step_0000020", "step_10000000", "step_0000003", "step_0000004.damaged", "other"):
        (folder.checkpoints / name).mkdir()
    (folder.checkpoints / "step_0000009").write_text("a file")
    assert list(folder.steps()) == [3, 20, 10_000_000]
    assert RunFolder(folder.root / "nowhere").steps() == {}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "delete"])
def test_any_damaged_file_sends_resume_to_the_checkpoint_before(
    folder: RunFolder, state: TrainState, tiny: Recipe, name: str, damage: str
) -> None:
    for _ in range(2):
        advance(state, tiny, 1)
        folder.save(state, tiny)
    file = folder.steps()[2] / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes(data if damage == "flip" else data[:-1])
    assert newest_checkpoint(folder.root) == folder.steps()[1]
    notes: list[str] = []
    assert folder.restore(state, notes.append) == folder.checkpoints / "step_0000001"
    assert state.step == 1
    assert len(notes) == 1
    assert name in notes[0]
    assert list(folder.steps()) == [1]
    assert (folder.checkpoints / "step_0000002.damaged").is_dir()


def test_a_checkpoint_of_another_network_or_a_newer_library_is_refused(
    folder: RunFolder, state: TrainState, tiny: Recipe, stand_in: Any
) -> None:
    folder.save(state, tiny)
    wide = replace(tiny, model=replace(tiny.model, dim=32))
    other = build_state(wide, build_sources(tiny).train, CPU, lambda r: stand_in(r.model))
    with pytest.raises(CheckpointError, match="another model's weights"):
        load_checkpoint(folder.steps()[0], other)
    path = folder.steps()[0]
    document = json.loads((path / "state.json").read_text()) | {"schema_version": 99}
    (path / "state.json").write_text(json.dumps(document))
    write_manifest(path)
    with pytest.raises(CheckpointError, match="schema_version 99"):
        load_checkpoint(path, state)


def test_a_run_without_a_checkpoint_has_nothing_to_restore(
    folder: RunFolder, state: TrainState, tiny: Recipe
) -> None:
    assert folder.begin("resume", tiny) is True
    assert folder.restore(state, pytest.fail) is None
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        newest_checkpoint(folder.root)


def keep_two(folder: RunFolder, state: TrainState, recipe: Recipe) -> tuple[Path, Path]:
    """Checkpoints of steps 1 and 2."""
    for _ in range(2):
        advance(state, recipe, 1)
        folder.save(state, recipe)
    return folder.steps()[1], folder.steps()[2]


def reseal(path: Path, **changes: Any) -> None:
    """Give a whole checkpoint another state.json."""
    document = json.loads((path / "state.json").read_text()) | changes
    (path / "state.json").write_text(json.dumps(document))
    write_manifest(path)


def names(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())


@pytest.mark.parametrize("fault", ["newer", "counters", "recipe", "unreadable"])
def test_a_whole_checkpoint_that_does_not_fit_is_named_and_never_renamed(
    folder: RunFolder,
    state: TrainState,
    tiny: Recipe,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, newest = keep_two(folder, state, tiny)
    if fault == "newer":
        reseal(newest, schema_version=99)
    if fault == "counters":
        reseal(newest, tokens="many")
    if fault == "recipe":
        write_tensors(newest / "optimizer.safetensors", {"exp_avg/gone.weight": torch.ones(2)})
        write_manifest(newest)
    if fault == "unreadable":

        def deny(*args: Any, **kwargs: Any) -> None:
            raise PermissionError("not yours")

        monkeypatch.setattr(store, "safe_open", deny)
    words = {
        "newer": "schema_version 99",
        "counters": "misstates",
        "recipe": "another recipe",
        "unreadable": "not yours",
    }
    with pytest.raises(CheckpointError, match=words[fault]):
        folder.restore(state, pytest.fail)
    assert names(folder) == ["step_0000001", "step_0000002"]


@pytest.mark.parametrize("name", ["state.json", "optimizer.safetensors"])
def test_a_sealed_file_that_cannot_be_parsed_is_damage(
    folder: RunFolder, state: TrainState, tiny: Recipe, name: str
) -> None:
    older, newest = keep_two(folder, state, tiny)
    (newest / name).write_text("[]")
    write_manifest(newest)
    notes: list[str] = []
    assert folder.restore(state, notes.append) == older
    assert names(folder) == ["step_0000001", "step_0000002.damaged"]
    assert len(notes) == 1
    assert folder.latest_file.read_text() == "checkpoints/step_0000001\n"


def test_nothing_is_set_aside_until_an_older_one_is_loaded(
    folder: RunFolder, state: TrainState, tiny: Recipe
) -> None:
    older, newest = keep_two(folder, state, tiny)
    (newest / "model.safetensors").write_bytes(b"")
    reseal(older, schema_version=99)
    with pytest.raises(CheckpointError, match="schema_version 99"):
        folder.restore(state, pytest.fail)
    (older / "state.json").unlink()
    for _ in range(2):  # and asking again finds the same
        with pytest.raises(CheckpointError, match=r"none of the 2 checkpoints.*--fresh"):
            folder.restore(state, pytest.fail)
    assert names(folder) == ["step_0000001", "step_0000002"]


def test_a_step_that_is_damaged_again_and_again_keeps_every_copy(
    folder: RunFolder, state: TrainState, tiny: Recipe
) -> None:
    keep_two(folder, state, tiny)
    for copy in range(3):
        (folder.steps()[2] / "state.json").write_text(f"torn {copy}")
        folder.restore(state, lambda text: None)
        advance(state, tiny, 1)
        folder.save(state, tiny)
    aside = [folder.checkpoints / f"step_0000002.damaged{n}" for n in ("", "-2", "-3")]
    assert [(path / "state.json").read_text() for path in aside] == ["torn 0", "torn 1", "torn 2"]
    assert set(folder.damaged()) == set(aside)
    assert list(folder.steps()) == [1, 2]


@pytest.mark.parametrize("left", ["damaged", "latest"])
def test_a_run_whose_checkpoints_are_all_lost_is_not_begun_again(
    folder: RunFolder, state: TrainState, tiny: Recipe, left: str
) -> None:
    for path in keep_two(folder, state, tiny):
        if left == "damaged":
            path.rename(f"{path}.damaged")
        else:
            shutil.rmtree(path)
    if left == "damaged":
        folder.latest_file.unlink()
        folder.recipe_file.unlink()  # the damaged folders alone say that a run was here
    assert folder.begin("auto", tiny) is True
    with pytest.raises(CheckpointError, match=r"run/.*--fresh"):
        folder.restore(state, pytest.fail)


def test_a_run_that_was_ended_before_its_first_checkpoint_begins_again_and_says_so(
    folder: RunFolder, state: TrainState, tiny: Recipe
) -> None:
    folder.metrics_file.write_text('{"kind": "step", "step": 1}\n')
    notes: list[str] = []
    assert folder.begin("resume", tiny) is True
    assert folder.restore(state, notes.append) is None
    assert len(notes) == 1
    assert "starts again at step 0" in notes[0]


def test_what_may_change_between_starts_is_saved_anew(folder: RunFolder, tiny: Recipe) -> None:
    assert folder.begin("auto", replace(tiny, steps=99, keep_last=7)) is True
    assert read_yaml(folder.recipe_file)["steps"] == 99
    with pytest.raises(ConfigError, match=r"data\.length \(was 6, is 7\)"):
        folder.begin("auto", replace(tiny, data=replace(tiny.data, length=7)))
    assert read_yaml(folder.recipe_file) == to_plain(replace(tiny, steps=99, keep_last=7))


def test_nested_settings_get_dotted_names() -> None:
    tree = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}}
    assert flatten(tree) == {"a": 1, "b.c": [1, 2], "b.d.e": None}


def test_evaluation_numbers_of_one_name_are_averaged() -> None:
    values = {"a/loss": 2.0, "b/loss": 4.0, "b/accuracy": 0.5, "c/deep/loss": 6.0}
    assert judged(values, "loss") == 4.0
    assert judged(values, "accuracy") == 0.5
    assert judged(values, "") is None
    assert judged({"a/loss": math.nan}, "loss") is None
    best = Best(checkpoint="x", by="loss", value=1.0)
    assert better(0.9, best, "loss")
    assert not better(1.0, best, "loss")
    assert better(1.1, replace(best, by="accuracy"), "accuracy")
    assert better(5.0, best, "accuracy")  # another measure begins anew
    assert better(5.0, None, "loss")


def test_a_recipe_of_before_a_setting_existed_means_its_default(run: Path, tiny: Recipe) -> None:
    folder = RunFolder(run)
    folder.begin("new", tiny)
    values = read_yaml(folder.recipe_file)
    del values["init_from"], values["model"]["norm_eps"]
    folder.recipe_file.write_text(yaml.safe_dump(values))
    assert folder.begin("resume", tiny)
    folder.recipe_file.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"init_from \(was '', is 'x'\)"):
        folder.begin("resume", replace(tiny, init_from="x"))
