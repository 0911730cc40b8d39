"""Profiles: sorted, shared out, and counting what ran."""

from dataclasses import replace

import pytest
import torch

from open_mythos.bench.clock import Clock
from open_mythos.bench.suite import Setting
from open_mythos.bench.suites.profiles import TOP, kernels, profile


@pytest.fixture
def attn_type() -> str:
    return "mla"


def test_known_work_is_found_and_counted_per_step() -> None:
    x = torch.randn(256, 256)
    found = {line["kernel"]: line for line in kernels(lambda: x @ x + x, Clock(x.device), 3)}
    assert found["aten::mm"]["calls"] == 1
    assert found["aten::mm"]["ms"] > 0


@pytest.mark.parametrize(
    ("index", "case"), [(0, "training step"), (1, "prompt"), (2, "token, batch 1")]
)
def test_a_profile_lists_the_longest_first(setting: Setting, index: int, case: str) -> None:
    (row,) = profile(setting)[index].run()
    assert row.case == case
    times = [line["ms"] for line in row.detail]
    assert len(times) == TOP
    assert times == sorted(times, reverse=True)
    assert sum(line["share"] for line in row.detail) <= 1.001


def test_where_this_library_is_compiled_a_prompt_is_profiled_both_ways(setting: Setting) -> None:
    names = [case.name for case in profile(replace(setting, compile=True))]
    assert names == ["training step", "prompt", "prompt compiled", "token, batch 1"]
