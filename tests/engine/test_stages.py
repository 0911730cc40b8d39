"""Stages follow from the numbers of their call: fillers in it change nothing for the others."""

from dataclasses import replace
from typing import Any

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
    call = Call.of([Run(track, 0, [0], [0], 0)], settings, torch.device("cpu"))
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
