"""Ouro checkpoints give the logits, and the exits, of the paper's equations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.errors import CheckpointError
from open_mythos.model.foreign import load_foreign
from open_mythos.model.mythos import OpenMythos
from tests.checkpoint.foreign.published import OURO, ouro_states, ouro_weights, write


Compare = Callable[..., OpenMythos]


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": True}, {"head_dim": 6}, {"num_key_value_heads": 4}],
)
def test_logits_are_those_of_the_equations(changes: dict[str, Any], compare: Compare) -> None:
    model = compare("ouro", **changes)
    assert model.cfg.max_loop_iters == OURO["total_ut_steps"]
    assert model.cfg.prelude_layers == model.cfg.coda_layers == 0


def test_rope_parameters_may_be_where_newer_files_have_them(compare: Compare) -> None:
    rope = {"rope_type": "default", "rope_theta": 1000000.0}
    assert compare("ouro", rope_parameters=rope).cfg.rope_theta == 1000000.0


def test_the_gate_leaves_where_its_distribution_reaches_the_threshold(tmp_path: Path) -> None:
    given = ouro_weights(OURO)
    given["model.early_exit_gate.bias"] -= 1.5
    model = load_foreign(write(tmp_path, OURO, given))
    ids, threshold = torch.randint(0, 30, (9,)), 0.6
    states = ouro_states(given, OURO, ids, 4)
    want = torch.empty(9, 31, dtype=torch.float64)
    left = []
    for at in range(9):
        going = 1.0
        for t, h in enumerate(states):
            gate, bias = given["model.early_exit_gate.weight"], given["model.early_exit_gate.bias"]
            going *= 1 - float((gate @ h[at] + bias).sigmoid())
            if 1 - going >= threshold or t == 3:
                want[at] = given["lm_head.weight"] @ h[at]
                left.append(t)
                break
    assert len(set(left)) > 1
    with torch.no_grad():
        got = model(ids[None], 4, exit=f"gate:{threshold}")[0]
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "gelu"),
        ("use_sliding_window", True),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("layer_types", ["full_attention", "sliding_attention", "full_attention"]),
    ],
)
def test_other_equations_are_refused_by_key(key: str, value: Any, tmp_path: Path) -> None:
    write(tmp_path, {**OURO, key: value}, ouro_weights(OURO))
    with pytest.raises(CheckpointError, match=key):
        load_foreign(tmp_path)
