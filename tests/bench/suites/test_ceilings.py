"""Ceilings are taken from the best of what was measured."""

import pytest
import torch

from open_mythos.bench.clock import Clock
from open_mythos.bench.record import Figure
from open_mythos.bench.suite import Found
from open_mythos.bench.suites.ceilings import ceilings, copy, product
from open_mythos.errors import InputError


CLOCK = Clock(torch.device("cpu"))


def found(**figures: float) -> Found:
    return Found(case="c", who="w", figures={k: Figure(v, "") for k, v in figures.items()})


def test_the_best_product_and_the_copy_are_the_ceilings() -> None:
    taken = ceilings([found(bandwidth=2.0), found(tflops=3.0), found(tflops=5.0)])
    assert (taken.flops, taken.bandwidth) == (5e12, 2e12)


def test_without_a_product_there_is_no_ceiling() -> None:
    with pytest.raises(InputError, match="a copy and a product"):
        ceilings([found(bandwidth=2.0)])


def test_a_copy_counts_reading_and_writing() -> None:
    row = copy(CLOCK, CLOCK.device, 1 << 16)
    moved = row.figures["bandwidth"].value * 1e12 * row.figures["step"].value / 1e3
    assert moved == pytest.approx(2 << 16)


def test_a_product_counts_two_flops_for_each_multiply_add() -> None:
    row = product(CLOCK, "p", (8, 16, 32), torch.float32)
    done = row.figures["tflops"].value * 1e12 * row.figures["step"].value / 1e3
    assert done == pytest.approx(2 * 8 * 16 * 32)
