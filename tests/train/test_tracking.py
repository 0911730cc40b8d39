import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from open_mythos.errors import MissingExtraError
from open_mythos.train.checkpoints import RunFolder
from open_mythos.train.recipe import Recipe, Tracker
from open_mythos.train.tracking import SINKS, tracking_sinks
from open_mythos.train.trainer import train


def test_every_tracker_of_a_recipe_has_a_sink() -> None:
    assert set(SINKS) == set(get_args(Tracker))


def test_none_is_the_default(tiny: Recipe) -> None:
    assert tracking_sinks(tiny) == []


def test_a_missing_package_is_said_before_anything_is_written(
    run: Path, tiny: Recipe, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match="wandb"):
        train(replace(tiny, log_to=("wandb",)), run, parts=parts)
    assert not RunFolder(run).holds_run()


def test_a_run_writes_for_its_trackers_and_fresh_starts_anew(
    run: Path, tiny: Recipe, parts: Any
) -> None:
    pytest.importorskip("tensorboard")
    recipe = replace(tiny, log_to=("tensorboard",), steps=3)
    train(recipe, run, parts=parts)
    assert len(list((run / "tensorboard").iterdir())) == 1
    train(replace(recipe, steps=5), run, parts=parts, resume="resume")
    assert len(list((run / "tensorboard").iterdir())) == 2
    train(recipe, run, parts=parts, resume="fresh")
    assert len(list((run / "tensorboard").iterdir())) == 1
    train(replace(recipe, log_to=(), steps=4), run, parts=parts, resume="resume")  # may change
