"""To a folder and back; what lies beside the weights comes along."""

from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.checkpoint.exit_file import StoredExit, write_exit
from open_mythos.errors import CheckpointError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.registry import exit_named


def test_there_and_back_with_the_exit_that_was_calibrated(tiny_config: Any, tmp_path: Path) -> None:
    model = OpenMythos(tiny_config(readout="last")).eval()
    folder, ids = tmp_path / "model", torch.arange(6).view(1, 6)
    model.save_pretrained(folder)
    plain = OpenMythos.from_pretrained(folder)
    assert plain.calibrated is None
    assert torch.equal(plain(ids, 4), model(ids, 4))
    stored = StoredExit(exit_named("fixed:2"), 4, 0.01, "accuracy")
    write_exit(folder, stored)
    again = OpenMythos.from_pretrained(folder)
    assert again.calibrated == stored
    assert torch.equal(again(ids, exit="calibrated"), model(ids, 2))
    assert not again.training


def test_an_exit_goes_on_with_the_weights_that_it_was_measured_on_and_no_others(
    tiny_config: Any, tmp_path: Path
) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    OpenMythos(tiny_config()).save_pretrained(first)
    stored = StoredExit(exit_named("kl:0.1"), 3, 0.01, "loss", {"data": "plays"})
    write_exit(first, stored)
    model = OpenMythos.from_pretrained(first)
    model.save_pretrained(second)
    handed_on = OpenMythos.from_pretrained(second)
    assert handed_on.calibrated == stored
    with torch.no_grad():
        handed_on.norm.weight[3] += 1e-6
    handed_on.save_pretrained(third)
    assert OpenMythos.from_pretrained(third).calibrated is None
    model.double().save_pretrained(third)
    assert OpenMythos.from_pretrained(third).calibrated is None


def test_a_state_of_another_network_is_refused(tiny_config: Any) -> None:
    state = OpenMythos(tiny_config()).state_dict()
    with pytest.raises(CheckpointError, match=r"here does not fit its config"):
        OpenMythos.from_state(tiny_config(dim=24), state, source="here")
