import json
import re
import subprocess

import pytest
import torch

from open_mythos.train import environment as module
from open_mythos.train.environment import environment, git_state


CPU = torch.device("cpu")


def test_the_environment_is_plain_json_and_says_where_it_begins() -> None:
    found = environment(CPU, 5)
    assert json.loads(json.dumps(found)) == found
    assert found["step"] == 5
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()


def test_the_commit_is_one_or_there_is_none() -> None:
    found = git_state()
    assert found is None or re.fullmatch(r"[0-9a-f]{40,64}", found["commit"])


def test_a_machine_without_git_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **options: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert module.git_state() is None
    assert environment(CPU, 0)["git"] is None
