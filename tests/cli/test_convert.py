import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from open_mythos.cli.main import app
from open_mythos.cli.opening import open_checkpoint
from open_mythos.config.mythos import MythosConfig
from open_mythos.config.overrides import to_yaml
from tests.checkpoint.foreign.published import FAMILIES, write


FROZEN = Path(__file__).parents[1] / "parity" / "openmythos_05.npz"


@pytest.fixture
def old(tmp_path: Path) -> dict[str, Any]:
    """The frozen 0.5.0 weights as the .pt file that its users have, and its answers."""
    with np.load(FROZEN) as file:
        sizes = json.loads(str(file["config"]))
        own = {k.removeprefix("mla/"): file[k] for k in file.files if k.startswith("mla/")}
    logits, ids = torch.from_numpy(own["logits_4"]), torch.from_numpy(own["ids"])
    skip = ("logits_1", "logits_4", "logits_20", "ids")
    state = {k: torch.from_numpy(v) for k, v in own.items() if k not in skip}
    torch.save(state, tmp_path / "old.pt")
    (tmp_path / "sizes.yaml").write_text(to_yaml(MythosConfig(**sizes, attn_type="mla")))
    return {"folder": tmp_path, "ids": ids, "logits": logits}


def convert(folder: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["convert", str(folder / "old.pt"), str(folder / "new"), *words])


def test_old_weights_become_a_model_folder_that_answers_as_before(old: dict[str, Any]) -> None:
    folder = old["folder"]
    sizes = ("--config", str(folder / "sizes.yaml"))
    result = convert(folder, *sizes)
    assert result.exit_code == 0, result.output
    model = open_checkpoint(folder / "new").model
    assert model.cfg.readout == "act_sum"
    assert torch.allclose(model(old["ids"], 4), old["logits"], atol=1e-5)
    again = convert(folder, *sizes)
    assert again.exit_code == 2
    assert "already holds a model" in again.stderr


def test_sizes_may_come_from_another_model_folder(old: dict[str, Any]) -> None:
    folder = old["folder"]
    assert convert(folder, "--config", str(folder / "sizes.yaml")).exit_code == 0
    (folder / "new").rename(folder / "like")
    result = convert(folder, "--config", str(folder / "like"))
    assert result.exit_code == 0, result.output


def test_a_bare_state_dict_needs_its_sizes(old: dict[str, Any]) -> None:
    result = convert(old["folder"])
    assert result.exit_code == 2
    assert "config" in result.stderr


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_foreign_folder_becomes_a_model_folder(family: str, tmp_path: Path) -> None:
    values, draw, equations = FAMILIES[family]
    given = draw(values)
    write(tmp_path / "theirs", values, given)
    (tmp_path / "theirs" / "tokenizer.json").write_text("{}")
    words = ["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]
    result = CliRunner().invoke(app, [*words, "--trusted"])
    assert result.exit_code == 2
    assert "never unpickled" in result.stderr
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert f"{family}, trained at 4 loops" in result.stderr
    assert (tmp_path / "ours" / "tokenizer.json").read_text() == "{}"
    model, ids = open_checkpoint(tmp_path / "ours").model, torch.randint(0, 30, (6,))
    want = equations(given, values, ids, 3)
    torch.testing.assert_close(model(ids[None], 3)[0].double(), want, rtol=1e-4, atol=1e-4)


def test_a_folder_of_nobody_known_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path / "theirs", {"model_type": "llama"}, {"x": torch.zeros(1)})
    words = ["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "'llama'" in result.stderr
    result = CliRunner().invoke(app, [*words, "--from", "huginn"])
    assert result.exit_code == 2
    assert "lacks" in result.stderr
    assert not (tmp_path / "ours").exists()
