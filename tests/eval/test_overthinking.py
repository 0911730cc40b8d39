"""Right answers lost and found, counted one by one."""

import pytest
import torch

from open_mythos.eval.overthinking import overthinking


def test_shares_are_those_of_positions_counted_one_by_one() -> None:
    hit = torch.rand(6, 200) < 0.5
    found = overthinking(hit)
    rows = hit.t().tolist()
    assert found.right_somewhere == pytest.approx(sum(any(r) for r in rows) / 200)
    assert found.right_at_end == pytest.approx(sum(r[-1] for r in rows) / 200)
    assert found.lost == pytest.approx(sum(any(r) and not r[-1] for r in rows) / 200)
    for t in range(6):
        assert found.accuracy[t] == pytest.approx(sum(r[t] for r in rows) / 200)
        if t:
            broken = sum(r[t - 1] and not r[t] for r in rows) / 200
            assert found.broken[t - 1] == pytest.approx(broken)
            change = found.mended[t - 1] - found.broken[t - 1]
            assert change == pytest.approx(found.accuracy[t] - found.accuracy[t - 1])


def test_one_loop_breaks_nothing() -> None:
    found = overthinking(torch.tensor([[True, False]]))
    assert (found.lost, found.mended, found.broken) == (0.0, (), ())
