"""Parcae variants give the logits of the paper's equations; the published ones are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.errors import CheckpointError
from open_mythos.model.foreign import load_foreign
from open_mythos.model.mythos import OpenMythos
from tests.checkpoint.foreign.published import PARCAE, parcae_weights, write


Compare = Callable[..., OpenMythos]


@pytest.mark.parametrize(
    "changes", [{}, {"prelude_norm": False}, {"qk_bias": True}, {"tie_embeddings": False}]
)
def test_logits_are_those_of_the_equations(changes: dict[str, Any], compare: Compare) -> None:
    model = compare("parcae", **changes)
    assert model.cfg.max_loop_iters == PARCAE["mean_recurrence"]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"mlp_class_name": "BaseMLP"}, "mlp_class_name"),
        ({"mlp_class_name": None}, "mlp_class_name"),
        ({"qk_norm": True}, "qk_norm"),
        ({"injection_type": "linear"}, "injection_type"),
        ({"recurrent_embedding_dimension": 20}, "recurrent_embedding_dimension"),
        ({"rope_settings": {"use_rope": False}}, "use_rope"),
    ],
)
def test_other_equations_are_refused_by_key(
    changes: dict[str, Any], key: str, tmp_path: Path
) -> None:
    values = {k: v for k, v in {**PARCAE, **changes}.items() if v is not None}
    write(tmp_path, values, parcae_weights(PARCAE))
    with pytest.raises(CheckpointError, match=f"^{key} is"):
        load_foreign(tmp_path)


def test_value_embeddings_are_refused_by_name(tmp_path: Path) -> None:
    given = parcae_weights(PARCAE)
    given["value_embeds.1.weight"] = torch.zeros(32, 16, dtype=torch.float64)
    write(tmp_path, PARCAE, given)
    with pytest.raises(CheckpointError, match=r"'value_embeds\.1\.weight'"):
        load_foreign(tmp_path)
