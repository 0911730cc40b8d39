"""The clock counts steps and takes turns; what it measures is the machine's business."""

import pytest
import torch

from open_mythos.bench.clock import Clock, Timing


@pytest.fixture
def clock() -> Clock:
    return Clock(torch.device("cpu"))


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def test_median_and_mean_are_of_the_samples() -> None:
    timing = Timing((5.0, 1.0, 3.0))
    assert (timing.median, timing.mean) == (3.0, 3.0)
    assert timing.figure().samples == (5.0, 1.0, 3.0)
    assert timing.figure().unit == "ms"


def test_a_fast_step_is_measured_as_often_as_asked(clock: Clock) -> None:
    step = Counted()
    assert len(clock.time(step, warm_up=2, repeat=7, cap=60).samples) == 7
    assert step.calls == 2 + 7


def test_a_step_beyond_the_cap_is_measured_three_times(clock: Clock) -> None:
    step = Counted()
    assert len(clock.time(step, warm_up=1, repeat=50, cap=0.0).samples) == 3
    assert step.calls == 1 + 3


def test_turns_alternate(clock: Clock) -> None:
    order: list[str] = []
    steps = {name: (lambda name=name: order.append(name)) for name in "ab"}
    timings = clock.in_turns(steps, rounds=4, cap=60)  # type: ignore[arg-type]
    assert order == ["a", "b"] * 5  # one to warm up
    assert {name: len(t.samples) for name, t in timings.items()} == {"a": 4, "b": 4}


def test_turns_stop_at_the_cap_after_three_rounds(clock: Clock) -> None:
    assert len(clock.in_turns({"a": Counted()}, rounds=9, cap=0.0)["a"].samples) == 3


def test_longer_work_takes_longer(clock: Clock) -> None:
    small, large = torch.randn(8, 8), torch.randn(512, 512)
    short = clock.time(lambda: small @ small, repeat=5)
    long = clock.time(lambda: large @ large @ large, repeat=5)
    assert min(short.samples) < min(long.samples)


def test_a_cpu_counts_no_peak(clock: Clock) -> None:
    clock.clean()
    assert clock.peak() == {}
