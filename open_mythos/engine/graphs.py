"""Graphs: stages of a few shapes, captured once and replayed, so that a call is one launch."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from open_mythos.engine.call import Call
from open_mythos.engine.settings import EngineConfig


# Passes before capture: kernels are compiled and libraries pick their algorithms in them.
WARM_UP = 2
KEPT = 256  # graphs; the one that was used longest ago makes room

Stage = Callable[[Call], Tensor]


@dataclass(frozen=True)
class Recorded:
    """A stage in one shape.

    Attributes:
        call: Whose numbers are read when it is replayed.
        out: What it gave when it was last replayed.
        replay: Run it.
    """

    call: Call
    out: Tensor
    replay: Callable[[], object]


class Graphs:
    """Stages by name and shape.

    What a stage gives is overwritten by whatever is replayed next: it must be read before.
    """

    def __init__(self, settings: EngineConfig) -> None:
        """None is captured yet."""
        self.settings = settings
        self._kept: OrderedDict[Hashable, Recorded] = OrderedDict()
        self._launched: dict[Hashable, Callable[[], object]] = {}
        self._pool: Any = None

    def fits(self, call: Call) -> bool:
        """Whether there are few calls of this shape: they have been filled up to a bucket."""
        if call.pieces:
            return call.filled
        return call.numbers.shape[1] in (self.settings.buckets or ())

    def run(self, stage: Stage, call: Call, name: Hashable) -> Tensor:
        """What `stage` gives for `call`.

        Args:
            stage: Follows from the call's numbers and shape and from `name`.
            call: Single positions, or pieces alone.
            name: All that it follows from beside.
        """
        key = (name, call.numbers.shape[1], call.width, call.filled)
        found = self._kept.get(key)
        if found is None:
            # On rows that are nobody's: trying it changes nothing.
            found = self._kept[key] = self.record(stage, call.nobodys(self.settings))
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        call.into(found.call)
        found.replay()
        return found.out

    def launch(self, name: Hashable, warm: Callable[[], object], run: Callable[[], object]) -> None:
        """Replay `run`, which follows from `name` and from numbers on the device.

        Args:
            name: All that it follows from beside.
            warm: The same on rows that are nobody's: it is run before the other is captured.
            run: What is captured.
        """
        replay = self._launched.get(name)
        if replay is None:
            replay = self._launched[name] = self.capture(warm, run)
        replay()

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self._launched.clear()

    def record(self, stage: Stage, call: Call) -> Recorded:
        """Capture a stage as a CUDA graph; all of them share one pool of memory."""
        said: list[Tensor] = []

        def run() -> None:
            said[:] = [stage(call)]

        replay = self.capture(run, run)
        return Recorded(call, said[0], replay)

    def capture(
        self, warm: Callable[[], object], run: Callable[[], object]
    ) -> Callable[[], object]:
        """Capture `run` after `warm`; what replays it."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                warm()
        torch.cuda.current_stream().wait_stream(side)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            run()
        return graph.replay
