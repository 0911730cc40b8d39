"""Rates and shares from times, and who competes."""

from pathlib import Path

import pytest
import torch

from open_mythos.bench.clock import Timing
from open_mythos.bench.contender import Work
from open_mythos.bench.floor import Ceilings
from open_mythos.bench.sizes import size_tiny
from open_mythos.bench.suite import (
    COMPILE_SECONDS,
    Setting,
    has_hugging_face,
    peers,
    rates,
    told,
    training_seconds,
)


SETTING = Setting(
    device=torch.device("cpu"),
    size=size_tiny(),
    attns=("gqa", "mla"),
    precision="fp32",
    compile=False,
)


def test_rates_follow_from_the_median() -> None:
    work = Work(step=lambda: None, tokens=50, flops=4e9)
    figures = rates(work, Timing((10.0, 20.0, 90.0)), Ceilings(flops=1e12, bandwidth=1e12))
    assert figures["step"].value == 20
    assert figures["tokens_per_second"].value == 2500
    assert figures["tflops"].value == pytest.approx(0.2)
    assert figures["floor"].value == pytest.approx(4)
    assert figures["share_of_floor"].value == pytest.approx(0.2)


def test_without_ceilings_or_flops_there_is_no_share() -> None:
    timing = Timing((1.0,))
    assert "share_of_floor" not in rates(Work(lambda: None, 1, 1e9), timing, None)
    assert "tflops" not in rates(Work(lambda: None, 1), timing, Ceilings(1e12, 1e12))


def test_compiling_is_reckoned_with() -> None:
    plain, compiled = (SETTING.engine(compile=flag) for flag in (False, True))
    assert training_seconds(compiled) - training_seconds(plain) == COMPILE_SECONDS


@pytest.mark.parametrize("attn", ["gqa", "mla"])
def test_peers_are_named_before_they_are_built(attn: str) -> None:
    assert peers(SETTING, attn) == []
    found = peers(Setting(**{**vars(SETTING), "peer": Path("nowhere")}), attn)
    assert [name for _, name, _ in found] == ["open-mythos 0.5.0"]
    found = peers(Setting(**{**vars(SETTING), "hugging_face": True}), attn)
    assert [name for _, name, _ in found] == (
        ["HF DeepSeek-V3"] if attn == "mla" else ["HF Llama", "HF Mixtral"]
    )


def test_a_peer_that_is_not_there_fails_in_its_own_case() -> None:
    build = peers(Setting(**{**vars(SETTING), "peer": Path("nowhere")}), "gqa")[0][0]
    with pytest.raises(ValueError, match="nowhere"):
        build()


def test_transformers_is_looked_for_and_not_imported() -> None:
    assert isinstance(has_hugging_face(), bool)


def test_an_error_is_one_line_without_folders() -> None:
    assert told(torch.OutOfMemoryError("CUDA out of memory.")).startswith("out of memory: CUDA")
    said = told(RuntimeError("no such thing:\n/home/somebody/cache/step.cpp:12"))
    assert said == "RuntimeError: no such thing: step.cpp:12"
    assert len(told(RuntimeError("x" * 5000))) == 300
