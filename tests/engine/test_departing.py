"""Departing: what `Accounts` says of rows that are read as they leave."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from open_mythos.engine.departing import Departing
from open_mythos.engine.lanes import Accounts, Lanes, Party
from open_mythos.model.leaving import leaving


@pytest.mark.parametrize("exit", [None, "latent:0.8", "acceleration:0.9", "kl:0.1", "stability:1"])
@torch.no_grad()
def test_rows_leave_with_what_the_full_account_would_read(
    build: Any, tiny_config: Any, exit: str | None
) -> None:
    model = build(readout="last", halted="freeze")
    cfg, leave = model.cfg, leaving(exit, model, 4)
    like = torch.empty(0, dtype=torch.float64)
    full, lean = (Lanes(cfg, 6, cfg.dim, like) for _ in range(2))
    index, party = torch.tensor([4, 0, 3]), Party(leave, int(leave is not None))
    states = torch.randn(5, 3, 1, cfg.dim, dtype=torch.float64).cumsum(0)
    states[:, 0] = states[0, 0]  # stands still: leaves as soon as the exit lets anybody go
    states[1, 2] = -states[0, 2]  # turns round: no exit lets it go after this loop
    nobody = torch.zeros(3, 1, dtype=torch.bool)
    seen = []
    for lanes in (full, lean):
        lanes.open(index, h=states[0], e=states[0])
    for before, after in pairwise(states):
        account = Accounts(full, index, [party], before, False, torch.empty_like(before), nobody)
        want, _ = account.step(after, None, last=nobody)
        got, _ = Departing(lean, index, party, before, before).step(after, None, last=False)
        left = nobody if got.left is None else got.left
        # Those that left before say whatever they like: nobody asks them again.
        gone = seen[-1] if seen else nobody
        assert torch.equal((left | gone), want.left)
        assert torch.equal(got.value[~gone], want.value[~gone])
        seen.append(want.left)
    assert exit is None or (seen[-1].any() and not seen[0].all())
