"""Metrics are sums of records, and strangers cannot make labels."""

from collections import Counter

import numpy as np

from open_mythos.engine.counters import Counters, Stats
from open_mythos.serve.metrics import Metrics
from open_mythos.serve.record import Record


STATS = Stats(1, 2, 3, 40, 5, 6, 700, 8, 9, 10, Counters())


def values(text: bytes) -> dict[str, float]:
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def test_numbers_are_those_of_the_records() -> None:
    metrics, draws = Metrics(), np.random.default_rng()
    tokens = loops = 0
    statuses: Counter[int] = Counter()
    for _ in range(20):
        record = Record("POST", "/v1/completions", status=int(draws.choice([200, 400])))
        for said in draws.integers(1, 9, draws.integers(0, 5)).tolist():
            record.said(said)
            tokens, loops = tokens + 1, loops + said
        statuses[record.status] += 1
        metrics.ended(record)
    found = values(metrics.text(STATS, 7))
    assert found["open_mythos_tokens_total"] == tokens
    assert found["open_mythos_loops_total"] == loops
    for status, count in statuses.items():
        labels = f'{{method="POST",route="/v1/completions",status="{status}"}}'
        assert found[f"open_mythos_requests_total{labels}"] == count
    assert found["open_mythos_in_flight"] == 7
    assert (found["open_mythos_engine_used"], found["open_mythos_engine_blocks"]) == (5, 40)


def test_paths_of_strangers_share_a_label() -> None:
    metrics = Metrics()
    before = len(values(metrics.text(STATS, 0)))
    for i in range(50):
        metrics.ended(Record(f"M{i}", f"/path/{i}", status=404))
    assert len(values(metrics.text(STATS, 0))) <= before + 2
