"""Errors of known perturbations, and the suite run through."""

import pytest
import torch

from open_mythos.bench.suite import Setting
from open_mythos.bench.suites import accuracy as module
from open_mythos.bench.suites.accuracy import accuracy, agreement, errors, relative


def test_a_relative_error_is_one_of_norms() -> None:
    wanted = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative(wanted + torch.tensor([0.0, 0.5]), wanted) == pytest.approx(0.1)


def test_errors_tell_rounding_of_weights_from_arithmetic() -> None:
    exact = torch.randn(2, 3, 8, dtype=torch.float64)
    held = exact * 1.1
    found = errors(held, exact, held)
    assert found["arithmetic_error"].value == 0
    assert found["relative_error"].value == pytest.approx(0.1)
    assert found["same_choice"].value == 1


def test_agreement_is_a_share() -> None:
    one = torch.tensor([[1, 2], [3, 4]])
    assert agreement(one, torch.tensor([[1, 2], [3, 5]])) == 0.75


def test_the_suite_finds_small_errors(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 3)
    monkeypatch.setattr(module, "TOKENS", 4)
    monkeypatch.setattr(module, "LOOPS", 2)
    monkeypatch.setattr(module, "POSITIONS", 8)
    rows = [row for case in accuracy(setting) for row in case.run()]
    logits = [row for row in rows if row.case.startswith("logits") and row.figures]
    assert {row.case for row in logits} == {"logits float32", "logits bfloat16"}
    for row in logits:
        limit = 1e-5 if "float32" in row.case else 5e-2
        assert row.figures["relative_error"].value < limit
    last = {row.case: row for row in rows}
    for name in ("eager decode", "a growing cache"):
        assert last[f"graph decode against {name}"].figures["same_tokens"].value == 1
    assert last["fp32 losses, fast against plain"].figures["apart"].value < 1e-4
