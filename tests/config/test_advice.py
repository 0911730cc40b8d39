"""Advice warns about what it should, and is silent about a network without those faults."""

from dataclasses import replace

import pytest

from open_mythos.config.advice import advice
from open_mythos.config.mythos import MythosConfig


QUIET = MythosConfig(readout="last", lti_decay=0.01, n_shared_experts=1)


def test_a_network_without_faults_gets_no_advice() -> None:
    assert advice(QUIET) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dense_hidden": 2730}, "dense_hidden (2730)"),
        ({"expert_dim": 100}, "expert_dim (100)"),
        ({"kv_lora_rank": 500}, "kv_lora_rank (500)"),
        ({"readout": "act"}, "readout 'act'"),
        ({"lti_decay": 0.5}, "lti_decay starts at 0.5"),
        ({"n_shared_experts": 3}, "3 times the work"),
        ({"kv_lora_rank": 1024}, "latent cache"),
    ],
)
def test_one_fault_gives_one_warning_that_names_it(change: dict[str, object], named: str) -> None:
    (warning,) = advice(replace(QUIET, **change))  # type: ignore[arg-type]
    assert named in warning


def test_depth_and_length_beyond_the_config_are_warned_about() -> None:
    (depth,) = advice(QUIET, n_loops=17)
    assert "17 loops exceed max_loop_iters (16)" in depth
    (length,) = advice(QUIET, context=5000)
    assert "5,000 exceeds max_seq_len (4,096)" in length
    assert advice(QUIET, n_loops=16, context=4096) == []


def test_grouped_query_attention_is_not_warned_about_latent_sizes() -> None:
    assert advice(replace(QUIET, attn_type="gqa", kv_lora_rank=1001)) == []
