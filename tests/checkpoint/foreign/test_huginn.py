"""Huginn checkpoints give the logits of the paper's equations."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.errors import CheckpointError
from open_mythos.model.foreign import load_foreign
from open_mythos.model.mythos import OpenMythos
from tests.checkpoint.foreign.published import HUGINN, huginn_weights, write


Compare = Callable[..., OpenMythos]


@pytest.mark.parametrize("changes", [{}, {"qk_bias": False}, {"tie_embeddings": False}])
def test_logits_are_those_of_the_equations(changes: dict[str, Any], compare: Compare) -> None:
    model = compare("huginn", **changes)
    assert model.cfg.max_loop_iters == HUGINN["mean_recurrence"]
    assert (model.head.weight is model.embed.weight) == (changes != {"tie_embeddings": False})


def test_without_a_stated_scale_embeddings_grow_by_the_root_of_the_width(tmp_path: Path) -> None:
    values = {k: v for k, v in HUGINN.items() if k != "init_values"}
    given = huginn_weights(values)
    model = load_foreign(write(tmp_path, values, given))
    want = given["transformer.wte.weight"] * math.sqrt(16)
    torch.testing.assert_close(model.embed.weight.detach(), want)


def test_a_head_that_is_said_to_be_tied_must_be(tmp_path: Path) -> None:
    given = huginn_weights(HUGINN)
    given["lm_head.weight"] = given["transformer.wte.weight"].clone()
    load_foreign(write(tmp_path, HUGINN, given))
    given["lm_head.weight"][3, 4] += 1
    write(tmp_path, HUGINN, given)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs"):
        load_foreign(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("injection_type", "add"), ("nonlin_name", "GELU"), ("bias", True), ("test_time_noise", 0.1)],
)
def test_other_equations_are_refused_by_key(key: str, value: Any, tmp_path: Path) -> None:
    write(tmp_path, {**HUGINN, key: value}, huginn_weights(HUGINN))
    with pytest.raises(CheckpointError, match=f"{key} is {value!r}"):
        load_foreign(tmp_path)


def test_heads_may_go_by_the_name_under_which_transformers_stores_them(tmp_path: Path) -> None:
    given = huginn_weights(HUGINN)
    values = {("n_heads" if k == "num_attention_heads" else k): v for k, v in HUGINN.items()}
    del values["num_key_value_heads"], values["qk_bias"]
    model = load_foreign(write(tmp_path, values, given))
    assert (model.cfg.n_heads, model.cfg.n_kv_heads) == (2, 2)
    assert model.cfg.attention_bias
