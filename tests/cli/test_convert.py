from pathlib import Path

import numpy as np
import torch
from typer.testing import CliRunner

from open_mythos.cli.main import app
from open_mythos.cli.opening import open_checkpoint
from open_mythos.config.mythos import MythosConfig
from open_mythos.config.overrides import to_yaml


FROZEN = Path(__file__).parents[1] / "parity" / "openmythos_05.npz"


def old_weights(tmp_path: Path, attn: str) -> tuple[Path, dict[str, np.ndarray]]:
    """The frozen 0.5.0 weights as the .pt file that its users have."""
    content = dict(np.load(FROZEN))
    mark = f"{attn}/weights/"
    state = {k[len(mark) :]: torch.tensor(v) for k, v in content.items() if k.startswith(mark)}
    assert state, sorted(content)[:5]
    path = tmp_path / "old.pt"
    torch.save(state, path)
    return path, content


def test_old_weights_become_a_model_folder(tmp_path: Path, old_config: MythosConfig) -> None:
    source, _ = old_weights(tmp_path, old_config.attn_type)
    sizes = tmp_path / "sizes.yaml"
    sizes.write_text(to_yaml(old_config))
    words = ["convert", str(source), str(tmp_path / "new"), "--config", str(sizes)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert open_checkpoint(tmp_path / "new").model.cfg.readout == "act_sum"
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2
    assert "already holds a model" in again.stderr


def test_a_bare_state_dict_needs_its_sizes(tmp_path: Path, old_config: MythosConfig) -> None:
    source, _ = old_weights(tmp_path, old_config.attn_type)
    result = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "new")])
    assert result.exit_code == 2
    assert "config" in result.stderr
