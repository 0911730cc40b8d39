"""How long a step takes and how much memory it needs, by the device's own clock."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from open_mythos.bench.record import Figure


Step = Callable[[], object]

WARM_UP = 3
REPEAT = 10
FEWEST = 3  # a median of fewer is a coin toss
CAP_SECONDS = 5.0
MS = 1e3
GIB = 2**30


@dataclass(frozen=True)
class Timing:
    """Several measurements of one step.

    Attributes:
        samples: Milliseconds, in the order taken.
    """

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one, in milliseconds."""
        return statistics.median(self.samples)

    @property
    def mean(self) -> float:
        """Their mean, in milliseconds; for steps that differ on purpose."""
        return statistics.fmean(self.samples)

    def figure(self) -> Figure:
        """The median with every measurement."""
        return Figure(self.median, "ms", self.samples)


class Clock:
    """Times steps on one device: by events on CUDA, by the host's clock elsewhere.

    On CUDA the host never waits between timed steps, so what is measured is how fast steps follow
    each other, with whatever the host can and cannot hide.
    """

    def __init__(self, device: torch.device) -> None:
        """Time what runs on `device`."""
        self.device = device
        self.events = device.type == "cuda"

    def time(
        self, step: Step, *, warm_up: int = WARM_UP, repeat: int = REPEAT, cap: float = CAP_SECONDS
    ) -> Timing:
        """Warm up, then take `repeat` measurements; fewer if they would pass `cap` seconds.

        The last warm-up step is timed to know how many fit; at least three always run.
        """
        for _ in range(max(warm_up - 1, 0)):
            step()
        expected = self._by_host(step)
        fitting = int(cap * MS / max(expected, 1e-6))
        return self.exactly(step, max(min(repeat, fitting), min(repeat, FEWEST)))

    def exactly(self, step: Step, repeat: int) -> Timing:
        """Take `repeat` measurements without a warm-up."""
        if not self.events:
            return Timing(tuple(self._by_host(step) for _ in range(repeat)))
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeat + 1)]
        self.wait()
        marks[0].record()
        for mark in marks[1:]:
            step()
            mark.record()
        self.wait()
        return Timing(tuple(marks[i].elapsed_time(marks[i + 1]) for i in range(repeat)))

    def in_turns(
        self, steps: Mapping[str, Step], *, rounds: int, cap: float = CAP_SECONDS
    ) -> dict[str, Timing]:
        """Time several steps in turns, so that a machine that slows down slows all of them.

        Stops after `rounds`, or once `cap` seconds have passed and each has three measurements.
        """
        for step in steps.values():
            self.exactly(step, 1)
        samples: dict[str, list[float]] = {name: [] for name in steps}
        began = time.perf_counter()
        for done in range(rounds):
            if done >= FEWEST and time.perf_counter() - began > cap:
                break
            for name, step in steps.items():
                samples[name].append(self._by_host(step))
        return {name: Timing(tuple(taken)) for name, taken in samples.items()}

    def _by_host(self, step: Step) -> float:
        self.wait()
        began = time.perf_counter()
        step()
        self.wait()
        return (time.perf_counter() - began) * MS

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def clean(self) -> None:
        """Give back what nothing refers to any more, and start the peak anew."""
        gc.collect()
        if self.events:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> dict[str, Figure]:
        """Most memory in use at once since `clean`, as a figure; none where nobody counts it."""
        if not self.events:
            return {}
        return {"peak_memory": Figure(torch.cuda.max_memory_allocated(self.device) / GIB, "GiB")}
