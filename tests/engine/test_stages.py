"""Stages follow from the numbers of their call: fillers in it change nothing for the others."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from open_mythos.engine.call import Call, fillers
from open_mythos.engine.flight import Run, Track
from open_mythos.engine.lanes import Party
from open_mythos.engine.stages import Stages


@torch.no_grad()
def test_fillers_leave_every_table_as_it_is_but_for_the_spare(build: Any, sizes: Any) -> None:
    settings = sizes(buckets=(4,))
    stages = Stages(build(), settings)
    track = Track(0, [1], 2, None, row=0, blocks=[1])
    call = Call.of([Run(track, 0, [0], [0], 0)], settings, stages.pages)
    call = replace(call, numbers=fillers(settings, 4, torch.device("cpu")))
    lanes = {name: table[:-1].clone() for name, table in stages.lanes.tables.items()}
    stages.enter(call)
    assert stages.loop(call, [Party(None, 0)], 3).tolist() == [1] * 4
    assert stages.logits(stages.coda(call)).isfinite().all()
    for name, table in stages.lanes.tables.items():
        assert torch.equal(table[:-1], lanes[name])
    for store in (*stages.pages.around.values(), *stages.pages.inside.values()):
        known = store.unflatten(0, (-1, settings.blocks + 2))[:, : settings.blocks + 1]
        assert not known.any()


@torch.no_grad()
@pytest.mark.parametrize("changes", [
    {"readout": "last"},
    {"readout": "last", "kv": "first", "attn_type": "mla", "core_layers": 2},
    {"readout": "last", "injection": "hyper", "initial_state": "noise", "coda_input": "linear"},
])  # fmt: skip
@pytest.mark.parametrize("loops", [1, 3])
def test_the_straight_way_says_what_the_stages_say_one_by_one(
    build: Any, sizes: Any, changes: Any, loops: int
) -> None:
    settings, model = sizes(), build(**changes)
    staged, straight = Stages(model, settings), Stages(model, settings)
    tracks = [Track(i, [], loops, None, row=i, blocks=[2 * i + 1, 2 * i + 2]) for i in range(3)]
    for stages in (staged, straight):
        stages.tables.follow(tracks)
    for at in range(6):  # each position looks at those that were written before
        for track in tracks:
            track.tokens.append(int(torch.randint(37, ())))
        runs = [Run(track, at, [track.row], [at], 0) for track in tracks]
        call = Call.of(runs, settings, staged.pages)
        staged.enter(call)
        assert staged.loop(call, [Party(None, 0)], loops).tolist() == [loops] * 3
        want = staged.logits(staged.coda(call))
        assert torch.allclose(straight.logits(straight.straight(call, loops)), want, atol=1e-12)
