"""What exits save and cost, for people."""

import json
from typing import Any

import pytest

from open_mythos.eval.calibration import Calibrated, Calibration, Trade
from open_mythos.eval.overthinking import Overthinking
from open_mythos.report.exit_table import exit_rows, overthinking_words


def trade(threshold: float, loops: float, score: float, cost: float) -> Trade:
    return Trade(threshold, loops, score, cost, cost + 0.002, 1000)


@pytest.fixture(scope="session")
def calibration() -> Calibration:
    """Two exits of which one keeps the budget."""
    curve = (trade(0.0, 8, 0.9, 0.0), trade(0.1, 5, 0.9, 0.001), trade(0.2, 2, 0.7, 0.22))
    kept = Calibrated("latent", curve, curve[1], trade(0.1, 5.2, 0.897, 0.0012), 0.65, 0.7)
    lost = Calibrated("kl", curve[1:], None, None, None)
    over = Overthinking(0.95, 0.9, 0.05, (0.5, 0.85, 0.9), (0.4, 0.1), (0.05, 0.051))
    return Calibration(
        metric="accuracy",
        budget=0.005,
        n_loops=8,
        full=0.898,
        exits={"latent": kept, "kl": lost},
        oracle=trade(1.0, 3.1, 0.95, -0.05),
        overthinking=over,
        chosen="latent",
    )


def test_a_row_for_every_exit_and_the_oracle(calibration: Calibration) -> None:
    header, latent, kl, oracle = exit_rows(calibration)
    assert len({len(row) for row in (header, latent, kl, oracle)}) == 1
    assert header[3] == "accuracy"
    assert latent == ["latent <-", "0.1", "5.20", "0.8970", "+0.12%", "+0.32%", "0.65", "0.70"]
    assert kl[:2] == ["kl", "none keeps the budget"]
    assert oracle[2:5] == ["3.10", "0.9500", "-5.00%"]


def test_overthinking_in_words(calibration: Calibration) -> None:
    first, second = overthinking_words(calibration)
    assert "95.0% of the answers are right after some loop, 90.0% after the last: 5.0%" in first
    assert "Loop 3 breaks most, 5.1%" in second
    assert "mends 10.0%" in second


def test_the_record_is_plain(calibration: Calibration) -> None:
    found: Any = json.loads(json.dumps(calibration.to_json()))
    assert found["exits"]["latent"]["verified"]["mean_loops"] == 5.2
    assert found["exits"]["kl"]["verified"] is None
    assert len(found["exits"]["latent"]["curve"]) == 3
