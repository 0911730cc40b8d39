"""Sizes: refused where nothing could run, and calls of few shapes where they are asked for."""

from typing import Any

import pytest

from open_mythos.engine.settings import EngineConfig
from open_mythos.errors import ConfigError


@pytest.mark.parametrize(
    "wrong",
    [
        {"blocks": 0},
        {"rows": True},
        {"chunk": 2.0},
        {"n_loops": 0},
        {"n_loops": "all"},
        {"queue": -1},
        {"resident": -1},
        {"resident": True},
        {"gather": 1.5},
        {"block_size": 16, "chunk": 8},
        {"buckets": (8, 4)},
        {"buckets": (4, 4)},
        {"buckets": (0, 4)},
    ],
    ids=str,
)
def test_what_cannot_run_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        EngineConfig(**wrong)


def test_a_call_is_filled_up_to_the_next_bucket_and_never_beyond_the_last() -> None:
    sizes = EngineConfig(buckets=(4, 8, 24))
    assert [sizes.bucket(n) for n in (1, 4, 5, 9, 24, 25)] == [4, 4, 8, 24, 24, 25]
    assert [EngineConfig().bucket(n) for n in (1, 7)] == [1, 7]


def test_every_row_has_a_lane_beside_those_of_prompts() -> None:
    assert EngineConfig(rows=5, chunk=32).lanes == 37
