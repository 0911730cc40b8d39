import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import safetensors
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
    assert (found["seed"], found["world"]) == (None, 1)
    asked = environment(CPU, 5, seed=7, world=4)
    assert (asked["seed"], asked["world"]) == (7, 4)
    assert asked["packages"]["safetensors"] == safetensors.__version__


def test_the_command_reads_back_as_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["open-mythos", "train", "cpu-tiny", "data.corpus=a b", "it's"]
    monkeypatch.setattr("sys.argv", words)
    assert shlex.split(environment(CPU, 0)["command"]) == words


def test_the_commit_is_one_or_there_is_none() -> None:
    found = git_state()
    assert found is None or re.fullmatch(r"[0-9a-f]{40,64}", found["commit"])


def test_a_change_shows_in_the_hash_of_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=n", "-c", "user.email=e@x"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    file = tmp_path / "environment.py"
    monkeypatch.setattr(module, "__file__", str(file))
    file.write_text("one\n")
    git("init")
    assert git_state() is None  # not one of its files
    git("add", ".")
    git("commit", "-m", "first")
    clean = git_state()
    assert clean is not None
    assert (clean["changed"], clean["diff"]) == (False, None)
    seen = []
    for text in ("two\n", "three\n", "two\n"):
        file.write_text(text)
        state = git_state()
        assert state is not None
        assert state["changed"]
        seen.append(state["diff"])
    assert seen[0] == seen[2] != seen[1]
    file.write_text("one\n")
    (tmp_path / "new.py").write_text("")
    state = git_state()
    assert state is not None
    assert (state["changed"], state["diff"]) == (True, None)


def test_a_machine_without_git_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **options: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert module.git_state() is None
    assert environment(CPU, 0)["git"] is None
