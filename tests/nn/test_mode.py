"""Evaluation for the time of a block leaves no trace, whatever happens in it."""

import pytest
from torch import nn

from open_mythos.nn.mode import evaluating


def test_every_module_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)).train()
    model[1].eval()
    seen = []

    def fail() -> None:
        with evaluating(model):
            seen.extend(module.training for module in model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [False, False, False]
    assert [module.training for module in model.modules()] == [True, True, False]
