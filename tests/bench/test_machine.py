"""What a run's entry holds, and what it keeps to itself."""

import json
from pathlib import Path

import pytest
import torch

from open_mythos.bench import machine
from open_mythos.bench.machine import COMMIT, about, peer_version, processor


CPU = torch.device("cpu")


def test_versions_device_date_and_command_are_there(tmp_path: Path) -> None:
    (tmp_path / "open_mythos-0.5.0.dist-info").mkdir()
    found = about(CPU, ["train", "--only", "two words"], tmp_path)
    assert found["torch"] == torch.__version__
    assert found["device_name"] == processor()
    assert found["command"] == "open-mythos bench train --only 'two words'"
    assert found["peer"] == "0.5.0"
    assert "started" in found
    assert "git" in found
    assert str(tmp_path) not in json.dumps(found)


def test_a_copy_without_git_is_told_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(device: torch.device, step: int) -> dict[str, object]:
        return {"step": step, "git": None}

    monkeypatch.setattr(machine, "environment", bare)
    monkeypatch.setenv(COMMIT, "abc123")
    assert about(CPU, [], None)["git"] == {"commit": "abc123", "changed": None}
    monkeypatch.delenv(COMMIT)
    assert about(CPU, [], None)["git"] is None


def test_a_folder_without_a_wheel_has_no_version(tmp_path: Path) -> None:
    assert peer_version(tmp_path) is None
