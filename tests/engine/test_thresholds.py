"""One kind of exit with a threshold per row against exits of one threshold."""

import math

import pytest
import torch

from open_mythos.engine.thresholds import Thresholds
from open_mythos.nn.loop.exits.criterion import Criterion, Seen
from open_mythos.nn.loop.exits.gates import Act
from open_mythos.nn.loop.exits.predictions import Stability
from open_mythos.nn.loop.exits.states import Latent


@pytest.mark.parametrize("kind", [Latent, Act, Stability])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_row_leaves_by_its_own_threshold_or_not_at_all(
    kind: type[Criterion], dtype: torch.dtype
) -> None:
    limits = [1.0, 2.0, 3.0] if kind is Stability else [0.1, 0.5, 0.9]
    before, after = torch.randn(2, 4, 1, 6, dtype=dtype)
    p = torch.rand(4, 1, dtype=dtype)
    said = torch.randn(2, 4, 1, 5, dtype=dtype).log_softmax(-1)
    seen = Seen(2, before, after, p, said[0], said[1])
    given = torch.tensor([[limits[0]], [math.nan], [limits[1]], [limits[2]]], dtype=torch.float64)
    rows = Thresholds(kind(limits[0]), given)
    assert (rows.predictions, rows.gated) == (kind.predictions, kind.gated)
    scores, kept = rows.score(seen, ())
    for shift in (0.0, 0.5, 1.0):  # scores that equal a threshold, too
        score = scores if shift == 0.0 else (given.nan_to_num() * shift).to(scores.dtype)
        done = rows.done(score).flatten().tolist()
        for row, limit in ((0, limits[0]), (2, limits[1]), (3, limits[2])):
            assert done[row] == kind(limit).done(score)[row, 0]
        assert not done[1]
    alone, _ = kind(limits[1]).score(seen, ())
    assert torch.equal(scores, alone)
    assert len(kept) == len(kind(limits[0]).score(seen, ())[1])
