"""Whose checkpoint it is, and what a damaged one of any family is told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from open_mythos.checkpoint.foreign.families import family_of, read_foreign
from open_mythos.errors import CheckpointError
from tests.checkpoint.foreign.published import FAMILIES, write


EVERY = sorted(FAMILIES)


@pytest.mark.parametrize("family", EVERY)
def test_every_published_name_is_known(family: str) -> None:
    values = FAMILIES[family][0]
    named = ("model_type", "architectures", "_class_name", "model_class_name")
    for key in named:
        if key in values:
            assert family_of({key: values[key]}) == family


@pytest.mark.parametrize("values", [{}, {"model_type": "llama"}, {"architectures": [3, None]}])
def test_a_foreign_model_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="none of huginn, ouro, parcae"):
        family_of(values)


@pytest.mark.parametrize("family", EVERY)
def test_any_weight_that_is_missing_is_named(family: str, tmp_path: Path) -> None:
    values, draw, _ = FAMILIES[family]
    given = draw(values)
    for name in given:
        if name == "freqs_cis":  # formed anew
            continue
        folder = write(tmp_path, values, {k: v for k, v in given.items() if k != name})
        with pytest.raises(CheckpointError, match=f"lacks '{name}'"):
            read_foreign(folder)


@pytest.mark.parametrize("family", EVERY)
def test_any_weight_of_another_shape_is_named(family: str, tmp_path: Path) -> None:
    values, draw, _ = FAMILIES[family]
    given = draw(values)
    for name, tensor in given.items():
        if name == "freqs_cis":
            continue
        longer = {**given, name: torch.cat((tensor, tensor))}
        with pytest.raises(CheckpointError, match=f"{name} has shape"):
            read_foreign(write(tmp_path, values, longer))


@pytest.mark.parametrize("family", EVERY)
def test_a_weight_too_many_is_named(family: str, tmp_path: Path) -> None:
    values, draw, _ = FAMILIES[family]
    given = {**draw(values), "extra.weight": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"no part for, 'extra\.weight' first"):
        read_foreign(write(tmp_path, values, given))


@pytest.mark.parametrize("family", EVERY)
def test_a_size_that_is_missing_or_no_number_is_named(family: str, tmp_path: Path) -> None:
    values, draw, _ = FAMILIES[family]
    given = draw(values)
    for key in ("intermediate_size", "vocab_size"):
        without = {k: v for k, v in values.items() if k not in (key, f"padded_{key}")}
        with pytest.raises(CheckpointError, match=f"lacks '{key}'"):
            read_foreign(write(tmp_path, without, given))
        with pytest.raises(CheckpointError, match=f"{key}='many'"):
            read_foreign(write(tmp_path, {**without, key: "many"}, given))


def test_sizes_that_make_no_network_are_refused(tmp_path: Path) -> None:
    values, draw, _ = FAMILIES["huginn"]
    with pytest.raises(CheckpointError, match="describes no network of ours"):
        read_foreign(write(tmp_path, {**values, "num_attention_heads": 3}, draw(values)))


def test_the_family_may_be_named_instead(tmp_path: Path) -> None:
    values, draw, _ = FAMILIES["ouro"]
    unnamed = {k: v for k, v in values.items() if k not in ("model_type", "architectures")}
    folder = write(tmp_path, unnamed, draw(values))
    assert read_foreign(folder, "ouro")[0] == "ouro"
    with pytest.raises(CheckpointError, match="did you mean 'ouro'"):
        read_foreign(folder, "ourou")
    (folder / "config.json").write_text(json.dumps(["ouro"]))
    with pytest.raises(CheckpointError, match="no table"):
        read_foreign(folder, "ouro")
