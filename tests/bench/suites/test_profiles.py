"""Profiles: sorted, shared out, and counting what ran."""

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


@pytest.mark.parametrize("index", [0, 1])
def test_a_profile_lists_the_longest_first(setting: Setting, index: int) -> None:
    (row,) = profile(setting)[index].run()
    times = [line["ms"] for line in row.detail]
    assert len(times) == TOP
    assert times == sorted(times, reverse=True)
    assert sum(line["share"] for line in row.detail) <= 1.001
