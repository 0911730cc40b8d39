"""Call: the positions that go through a stage together, from a plan's numbers to tensors."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.engine.flight import Run, Track
from open_mythos.engine.pages import Glance, View
from open_mythos.engine.settings import EngineConfig
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.rotary import Rotary
from open_mythos.nn.upload import upload


# Whose rows fill a call up: they write to block 0, and nobody reads what they say.
NOBODY = Track(id=-1, tokens=[0], n_loops=1, root=None, blocks=[0])


@dataclass(frozen=True)
class Call:
    """Rows of a call: single positions first, then fillers, then pieces of prompts.

    Attributes:
        runs: Whose positions, in the order of the rows.
        lanes: (N,) int64.
        settings: Sizes.
    """

    runs: Sequence[Run]
    lanes: Tensor
    settings: EngineConfig

    @classmethod
    def of(cls, runs: Iterable[Run], settings: EngineConfig, device: torch.device) -> "Call":
        """The call for `runs`, filled up to one of the settings' sizes."""
        given = list(runs)
        count = sum(len(run.lanes) for run in given)
        filler = Run(NOBODY, 0, [settings.lanes], [0], 0)
        spare = [filler] * (settings.bucket(count) - count)
        single = [run for run in given if len(run.lanes) == 1]
        ordered = [*single, *spare, *(run for run in given if len(run.lanes) > 1)]
        lanes = upload([lane for run in ordered for lane in run.lanes], device)
        return cls(ordered, lanes, settings)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.lanes.device

    def column(self, number: Callable[[Run], Sequence[int]]) -> Tensor:
        """A number of each row, (N,) int64."""
        return upload([value for run in self.runs for value in number(run)], self.device)

    def starts(self) -> list[int]:
        """The first row of each run."""
        at, found = 0, []
        for run in self.runs:
            found.append(at)
            at += len(run.lanes)
        return found

    def view(self) -> View:
        """Where the rows write, and what they look at: single rows together, runs by themselves."""
        size = self.settings.block_size
        write = self.column(lambda run: places(run, size))
        single = sum(len(run.lanes) == 1 for run in self.runs)
        glances = [self._singles(single)] if single else []
        glances += [
            self._together(run, start)
            for run, start in zip(self.runs[single:], self.starts()[single:], strict=True)
        ]
        return View(write, glances)

    def _singles(self, count: int) -> Glance:
        runs, size = self.runs[:count], self.settings.block_size
        ends = [run.positions[0] + 1 for run in runs]
        width = -(-max(ends) // size)
        if self.settings.buckets:  # few shapes here, too
            width = 1 << (width - 1).bit_length()
        tables = [run.track.blocks[:width] for run in runs]
        blocks = upload([[*t, *[0] * (width - len(t))] for t in tables], self.device)
        lengths = upload(ends, self.device)
        rows = slice(0, count)
        if self.device.type == "cuda":
            return Glance(rows, blocks, AttentionContext(NO_TABLES, lengths=lengths))
        keys = torch.arange(width * size, device=self.device)
        mask = (keys < lengths.unsqueeze(1))[:, None, None]
        return Glance(rows, blocks, AttentionContext(NO_TABLES, causal=False, mask=mask))

    def _together(self, run: Run, start: int) -> Glance:
        size = self.settings.block_size
        width = -(-(run.positions[-1] + 1) // size)
        blocks = upload([run.track.blocks[:width]], self.device)
        keys = torch.arange(width * size, device=self.device)
        mask = keys <= upload(run.positions, self.device).unsqueeze(1)
        rows = slice(start, start + len(run.lanes))
        return Glance(
            rows, blocks, AttentionContext(NO_TABLES, causal=False, mask=mask[None, None])
        )


# Queries and keys are turned when the rows are projected; who looks needs no angles.
NO_TABLES = Rotary(torch.empty(0), torch.empty(0))


def places(run: Run, size: int) -> list[int]:
    """Where each position of a run writes inside of a slot: block * size + offset."""
    blocks = run.track.blocks
    return [blocks[at // size] * size + at % size for at in run.positions]
