"""Rounds: who is picked up, and that nobody's rows change nobody."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from open_mythos.engine.rounds import Rounds, Shape
from open_mythos.engine.stages import Stages
from open_mythos.kernels.columns import IDLE, LOOPING, WIDTH, At


SHAPE = Shape(
    rows=6, picks=3, width=2, turns=2, straight=False, kind=None, draws=True, filters=True
)


@torch.no_grad()
@pytest.mark.parametrize("straight", [False, True])
def test_rounds_of_nobody_change_nobody(build: Any, sizes: Any, straight: bool) -> None:
    settings = sizes(rows=6)
    rounds = Rounds(Stages(build(halted="freeze"), settings))
    rounds.state[:-1] = torch.randint(IDLE, LOOPING + 1, (6, WIDTH))
    before, stages = rounds.state.clone(), rounds.stages
    lanes = {name: table[:-1].clone() for name, table in stages.lanes.tables.items()}
    rounds.run(torch.full((6,), 6), replace(SHAPE, straight=straight))
    assert torch.equal(rounds.state[:-1], before[:-1])
    assert rounds.state[-1, At.STATUS] == IDLE
    assert rounds.out[0, :3].tolist() == [6] * 3
    assert rounds.out[5, 0] == 0
    for name, table in stages.lanes.tables.items():
        assert torch.equal(table[:-1], lanes[name])
    for store in (*stages.pages.around.values(), *stages.pages.inside.values()):
        known = store.unflatten(0, (-1, settings.blocks + 2))[:, : settings.blocks + 1]
        assert not known.any()
