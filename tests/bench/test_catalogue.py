"""Every suite makes cases, and every size has its usual suites."""

import pytest
import torch

from open_mythos.bench.catalogue import SUITES, USUAL, chosen
from open_mythos.bench.sizes import SIZES, size
from open_mythos.bench.suite import Setting
from open_mythos.errors import InputError


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("scale", ["R", "1b", "tiny"])
def test_cases_are_made_without_building_a_network(name: str, scale: str) -> None:
    setting = Setting(
        device=torch.device("cpu"),
        size=size(scale),
        attns=("gqa", "mla"),
        precision="fp32",
        compile=False,
    )
    cases = SUITES[name](setting)
    labels = [(case.attn, case.name, case.who) for case in cases]
    assert cases
    assert len(set(labels)) == len(labels)


def test_every_size_has_usual_suites_and_they_exist() -> None:
    assert set(USUAL) == set(SIZES)
    assert all(name in SUITES for names in USUAL.values() for name in names)


def test_named_suites_run_once_in_the_order_named() -> None:
    assert chosen(["moe", "train", "moe"], "R") == ["moe", "train"]
    assert chosen([], "1b") == list(USUAL["1b"])


def test_an_unknown_suite_is_refused_with_a_hint() -> None:
    with pytest.raises(InputError, match="did you mean 'decode'"):
        chosen(["decod"], "R")
