"""exit.json: bound to the weights that it was measured on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.checkpoint.exit_file import (
    EXIT_FILE,
    StoredExit,
    fingerprint,
    read_exit,
    write_exit,
)
from open_mythos.errors import DamagedError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.registry import exit_named


STORED = StoredExit(
    exit=exit_named("kl:0.01"),
    n_loops=6,
    budget=0.005,
    metric="loss",
    measured={"data": "plays", "mean_loops": 3.2},
)


@pytest.fixture
def folder(tiny_config: Any, tmp_path: Path) -> Path:
    OpenMythos(tiny_config()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_what_is_written_is_read(folder: Path) -> None:
    assert read_exit(folder) is None
    write_exit(folder, STORED)
    assert read_exit(folder) == STORED
    model = OpenMythos.from_pretrained(folder)
    assert model.calibrated == STORED


def test_other_weights_have_no_exit(folder: Path, tiny_config: Any) -> None:
    write_exit(folder, STORED)
    model = OpenMythos.from_pretrained(folder)
    with torch.no_grad():
        model.norm.weight.mul_(1.1)
    model.save_pretrained(folder)
    assert (folder / EXIT_FILE).is_file()
    assert read_exit(folder) is None
    assert OpenMythos.from_pretrained(folder).calibrated is None


def test_a_folder_put_together_by_hand_keeps_it(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    write_exit(folder, STORED)
    assert read_exit(folder) == STORED


def test_an_exit_that_nobody_knows_here_is_none(folder: Path) -> None:
    path = write_exit(folder, STORED)
    path.write_text(path.read_text().replace('"kl"', '"of_yours"'))
    assert read_exit(folder) is None


@pytest.mark.parametrize("wrong", ["{", "[]", {"threshold": -1.0}, {"exit": ...}, {"budget": ...}])
def test_damage_is_told(folder: Path, wrong: Any) -> None:
    path = write_exit(folder, STORED)
    if isinstance(wrong, str):
        path.write_text(wrong)
    else:
        document = json.loads(path.read_text())
        for key, value in wrong.items():
            if value is ...:
                del document[key]
            else:
                document[key] = value
        path.write_text(json.dumps(document))
    with pytest.raises(DamagedError, match=r"exit\.json"):
        read_exit(folder)


def test_a_fingerprint_is_of_names_kinds_shapes_and_bytes() -> None:
    state = {"a": torch.randn(3, 4), "b": torch.tensor(2.0).bfloat16(), "none": torch.zeros(0)}
    same = {name: state[name].clone() for name in reversed(state)}
    assert fingerprint(state) == fingerprint(same)
    others = [
        {**state, "a": state["a"].view(4, 3)},
        {**state, "a": state["a"].view(torch.int32)},
        {**state, "a": state["a"] + 1e-3},
        {**state, "b": state["b"].half()},
        {"c" if name == "a" else name: tensor for name, tensor in state.items()},
    ]
    assert len({fingerprint(state), *map(fingerprint, others)}) == 1 + len(others)
    assert fingerprint({**state, "a": state["a"].t().contiguous().t()}) == fingerprint(state)
