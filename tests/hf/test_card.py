"""What a card says is what the config costs."""

from typing import Any

import pytest

from open_mythos.config.budget import cache_bytes_per_token, parameters
from open_mythos.hf.card import Story, model_card, parameters_as_run
from open_mythos.model.mythos import OpenMythos


def test_one_loop_meets_the_active_parameters_and_every_further_one_the_core(
    any_config: Any,
) -> None:
    once = parameters_as_run(any_config, 1)
    assert once == parameters(any_config).active
    core = parameters(any_config).looped - parameters(any_config).inactive
    assert parameters_as_run(any_config, 7) - once == 6 * core


def test_a_dense_core_without_extras_counts_as_a_deeper_network(tiny_config: Any) -> None:
    cfg = tiny_config(core_ffn="dense", loop_lora=False, injection="add", readout="last")
    model = OpenMythos(cfg)
    core = sum(p.numel() for n, p in model.recurrent.block.named_parameters() if "norm" not in n)
    gate = sum(p.numel() for p in model.recurrent.act.parameters())
    assert parameters_as_run(cfg, 4) == parameters(cfg).total + 3 * (core + gate)


def test_numbers_words_and_the_hubs_header_are_on_it(tiny_config: Any) -> None:
    cfg = tiny_config(max_loop_iters=6)
    story = Story("Tiny", "Plays.", "mit", {"plays": {1: 2.5, 6: 1.25}}, "More.")
    text = model_card(cfg, story)
    assert text.startswith("---\nlibrary_name: transformers\n")
    for said in ("license: mit", "# Tiny", "Plays.", "More.", "| plays | 2.5 | 1.25 |"):
        assert said in text
    for loops in (1, 2, 4, 6):
        row = f"| {loops} | {parameters_as_run(cfg, loops):,} |"
        assert row in text
        assert f"| {cache_bytes_per_token(cfg, loops):,} |" in text
    assert "| 8 |" not in text


@pytest.mark.parametrize("said", ["Not said by", "Not measured"])
def test_what_nobody_knows_is_said_to_be_unknown(tiny_config: Any, said: str) -> None:
    text = model_card(tiny_config(), n_loops=2)
    assert said in text
    assert "license" not in text
    assert "It runs 2 loops" in text
