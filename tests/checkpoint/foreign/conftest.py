from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.model.foreign import load_foreign
from open_mythos.model.mythos import OpenMythos
from tests.checkpoint.foreign.published import FAMILIES, write


Compare = Callable[..., OpenMythos]


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    """`compare(family, **changes)`: the converted model, whose logits are those of the paper."""

    def check(family: str, **changes: Any) -> OpenMythos:
        stated, draw, equations = FAMILIES[family]
        values = {**stated, **changes}
        given = draw(values)
        model = load_foreign(write(tmp_path / family, values, given))
        ids = torch.randint(0, 30, (7,))
        for loops in (1, 2, 5):
            want: Tensor = equations(given, values, ids, loops)
            torch.testing.assert_close(model(ids[None], loops)[0], want, rtol=1e-7, atol=1e-7)
        return model

    return check
