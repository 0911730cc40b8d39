"""The presets are the published table, row by row."""

import pytest

from open_mythos import errors, variants
from open_mythos.config.budget import parameters
from open_mythos.config.presets import OWN, PRESETS, SEED, preset
from open_mythos.train.text_recipes import text_120m


COLUMNS = (
    "vocab_size dim n_heads n_kv_heads max_seq_len max_loop_iters prelude_layers coda_layers "
    "kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim n_experts "
    "n_shared_experts n_experts_per_tok expert_dim rope_theta lora_rank max_output_tokens"
)
TABLE = {
    "mythos_1b": "32000 2048 16 4 4096 16 2 2 256 512 32 64 64 64 2 4 2048 5e5 8 4096",
    "mythos_3b": "32000 3072 24 6 4096 16 2 2 384 768 32 96 96 64 2 4 4096 5e5 8 4096",
    "mythos_10b": "32000 4096 32 8 8192 24 2 2 512 1024 64 128 128 128 2 4 5632 5e5 16 4096",
    "mythos_50b": "32000 6144 48 8 8192 32 3 3 512 1536 64 128 128 256 4 4 9728 5e5 32 4096",
    "mythos_100b": (
        "32000 8192 64 8 1000000 32 4 4 512 2048 64 128 128 256 4 8 13568 1e6 64 131072"
    ),
    "mythos_500b": (
        "100000 12288 96 16 1000000 48 4 4 1024 3072 64 128 128 512 8 8 23040 1e6 128 131072"
    ),
    "mythos_1t": (
        "100000 16384 128 16 1000000 64 6 6 1024 4096 64 128 128 512 8 8 34560 2e6 256 131072"
    ),
}
NOMINAL = dict(zip(TABLE, (1e9, 3e9, 10e9, 50e9, 100e9, 500e9, 1e12), strict=True))


OWN_SIZES = {"mythos_nano": 5e6, "mythos_mini": 30e6, "mythos_small": 120e6}


def test_the_seed_family_is_the_table_and_no_more() -> None:
    assert list(SEED) == list(TABLE)
    assert set(PRESETS) == {*OWN, *TABLE}


@pytest.mark.parametrize("name", OWN)
def test_our_own_have_the_size_they_say_and_a_loop_that_keeps_its_depth(name: str) -> None:
    cfg = getattr(variants, name)()
    assert cfg == preset(name)
    assert parameters(cfg).total == pytest.approx(OWN_SIZES[name], rel=0.12)
    assert (cfg.readout, cfg.injection, cfg.loop_index, cfg.loop_lora) == (
        "last",
        "lti",
        False,
        False,
    )
    assert cfg.lti_decay < 0.02


def test_the_largest_of_ours_is_what_the_text_recipe_trains() -> None:
    assert text_120m().model == preset("mythos_small")


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_is_its_row(name: str) -> None:
    cfg = preset(name)
    row = dict(zip(COLUMNS.split(), (float(v) for v in TABLE[name].split()), strict=True))
    assert {column: getattr(cfg, column) for column in COLUMNS.split()} == row
    assert (cfg.attn_type, cfg.readout, cfg.injection, cfg.halted) == (
        "mla",
        "act",
        "lti",
        "continue",
    )
    assert (cfg.act_threshold, cfg.dropout) == (0.99, 0.0)


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_has_the_size_of_its_name(name: str) -> None:
    assert parameters(preset(name)).total == pytest.approx(NOMINAL[name], rel=0.12)


@pytest.mark.parametrize("name", TABLE)
def test_the_variants_face_builds_a_fresh_copy_each_time(name: str) -> None:
    build = getattr(variants, name)
    first, second = build(), build()
    assert first == second == preset(name)
    first.dim = 64
    assert second == build()


def test_an_unknown_preset_is_refused_with_a_suggestion() -> None:
    with pytest.raises(errors.ConfigError, match=r"'mythos_7b'; did you mean 'mythos_"):
        preset("mythos_7b")
