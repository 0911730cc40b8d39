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


def test_a_state_of_another_network_is_refused(tiny_config: Any) -> None:
    state = OpenMythos(tiny_config()).state_dict()
    with pytest.raises(CheckpointError, match=r"here does not fit its config"):
        OpenMythos.from_state(tiny_config(dim=24), state, source="here")
