"""Runner: plans in, what became of them out; between them stages, captured where they can be."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from open_mythos.engine.call import Call, place
from open_mythos.engine.flight import Run
from open_mythos.engine.graphs import Graphs
from open_mythos.engine.lanes import Party, counted
from open_mythos.engine.settings import EngineConfig
from open_mythos.engine.stages import Stages
from open_mythos.generate.decode import watched
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exiting import Leave
from open_mythos.nn.upload import upload


@dataclass(frozen=True)
class Landing:
    """What was said of positions that have been through the network.

    Attributes:
        logits: (n, vocab), of the runs that end with their request's last token, in order; None
            where there are none: all were pieces of prompts.
        whole: By track, those of all positions of its run, (S, vocab), where they were asked for.
        read: (n,) int64, loops after which the positions behind `logits` left, where they may leave
            and go on; 0 where one did not. None where they do not.
    """

    logits: Tensor | None
    whole: dict[int, Tensor]
    read: Tensor | None = None


@dataclass(frozen=True)
class Turned:
    """What loops did.

    Attributes:
        turns: Loops that were run.
        left: By run and position, loops after which it left; 0 where it is going.
    """

    turns: int
    left: list[list[int]]


@dataclass(frozen=True)
class Read:
    """What became of pieces of prompts that went through the whole network.

    Attributes:
        landing: What was said.
        left: By run, loops after which its last position left.
        ran: Calls of the core: loops, and rows that took part.
    """

    landing: Landing
    left: list[int]
    ran: list[tuple[int, int]]


class Runner:
    """Stages for the positions that a plan names.

    Attributes:
        model: The network, in evaluation mode.
        settings: Sizes, with the buckets of the device where none were given.
        stages: All tensors.
        graphs: Captured stages; None where they run one operation after the other.
    """

    def __init__(self, model: OpenMythos, settings: EngineConfig) -> None:
        """Allocate everything that `settings` says."""
        cuda = model.embed.weight.is_cuda
        if settings.buckets is None and cuda:
            settings = replace(settings, buckets=settings.few)
        self.model, self.settings = model, settings
        self.device = model.embed.weight.device
        self.stages = Stages(model, settings)
        loop = model.recurrent
        self._own = loop.owning
        wanted = cuda and not watched(model) if settings.graphs is None else settings.graphs
        self.graphs = Graphs(settings) if wanted and not self._own else None

    def refresh(self) -> None:
        """Take over what all loops share from the weights, after those have changed."""
        self.stages.refresh()
        if self.graphs is not None:
            self.graphs.clear()

    def enter(self, runs: Sequence[Run]) -> None:
        """Embed positions, run the prelude, and put them where the loop starts."""
        self._run(self.stages.enter, self._call(runs), "enter", self.stages.lanes.kinds)

    def turn(self, runs: Sequence[Run]) -> Turned:
        """One loop or more for positions in the loop, and who has left with which.

        Where nobody can leave early, as many as everybody has left; else one, or the settings'
        `stride`.
        """
        if not self._own:
            turns = self._turns(runs)
            return Turned(turns, self._turn(runs, turns))
        # Loops with weights of their own: one call for those that share theirs.
        left: list[list[int]] = [[] for _ in runs]
        rows = [self.model.cfg.loop_row(run.loop) for run in runs]
        for row in sorted(set(rows)):
            which = [i for i, own in enumerate(rows) if own == row]
            for i, leaving in zip(which, self._turn([runs[i] for i in which], 1), strict=True):
                left[i] = leaving
        return Turned(1, left)

    def straight(self, runs: Sequence[Run]) -> bool:
        """Whether `through` runs them: single positions of one depth that all of them reach."""
        if self._own or self.model.cfg.readout != "last":
            return False
        loops = runs[0].track.n_loops
        return all(
            len(run.lanes) == 1 and run.track.leave is None and run.track.n_loops == loops
            for run in runs
        )

    def through(self, runs: Sequence[Run]) -> Landing:
        """Prelude, all loops, coda and head in one call; on a GPU, one graph for a token."""
        call, loops, stages = self._call(runs), runs[0].track.n_loops, self.stages
        said = self._run(lambda c: stages.logits(stages.straight(c, loops)), call, "through", loops)
        return self._landing(call, runs, said)

    def reads(self, run: Run) -> bool:
        """Whether `read` takes it."""
        return len(run.lanes) > 1 and not self._own

    def read(self, runs: Sequence[Run]) -> Read:
        """Pieces of prompts that leave in one way, through the whole network."""
        call, stages, track = self._call(runs), self.stages, runs[0].track
        if track.leave is None and self.model.cfg.readout == "last":
            loops = track.n_loops
            said = self._piece(lambda c: stages.straight(c, loops), call, "straight", loops)
            ran = [(loops, call.numbers.shape[1])]
            return Read(self._landing(call, runs, said, stages.logits), [loops] * len(runs), ran)
        if track.leave is not None:
            stages.lanes.prepare(track.leave.exit)
        self._piece(stages.enter, call, "enter", stages.lanes.kinds)
        gone, ran = self._descend(call, track.leave)
        landing = self._landing(call, runs, self._piece(stages.coda, call, "coda"), stages.logits)
        last = [start + len(run.lanes) - 1 for run, start in zip(runs, call.starts, strict=True)]
        return Read(landing, gone[upload(last, self.device)].tolist(), ran)

    def _descend(self, call: Call, leave: Leave | None) -> tuple[Tensor, list[tuple[int, int]]]:
        """All loops of pieces that have entered, and those that have left out of the call.

        Args:
            call: Pieces alone, all of as many loops at most.
            leave: How their positions leave early.

        Returns:
            (N,) int64, after how many loops each has left; and the calls of the core, loops and
            rows.
        """
        stages, ends, done, part, ran = self.stages, call.runs[0].track.n_loops, 0, call, []
        left = torch.empty_like(call.loops)
        index = torch.arange(len(left), device=left.device)
        compacts = stages.early and (leave is not None or self.model.cfg.readout != "last")
        while done < ends:
            loop = 0 if leave is None else counted(leave.exit, done)
            turns = self.settings.stride if leave is None or counted(leave.exit, 0) else 1
            turns = min(turns if compacts else ends, ends - done)
            stage = partial(stages.fall, leave=leave, loop=loop, turns=turns)
            party = Party(leave, loop)
            gone = self._piece(stage, part, "fall", turns, party, known=party.known)
            left[index], done = gone, done + turns
            ran.append((turns, len(gone)))
            if not compacts or done == ends:
                break
            going = (gone == 0).nonzero().squeeze(1)  # the host waits for how many there are
            if not len(going):
                break
            part, index = part.kept(going, done), index[going]
        return left, ran

    def _piece(
        self, stage: Callable[[Call], Tensor], call: Call, *name: Hashable, known: bool = True
    ) -> Tensor:
        """`_run` of pieces alone, filled up where that is captured; what it says of their rows."""
        if self.graphs is None or not known:
            return stage(call)
        return self._run(stage, call.fill(self.settings), *name)[: call.numbers.shape[1]]

    def _leaves(self, runs: Sequence[Run]) -> bool:
        """Whether a position may leave before its end."""
        halting = self.model.cfg.readout != "last"
        return self.stages.early and (halting or any(run.track.leave is not None for run in runs))

    def _turns(self, runs: Sequence[Run]) -> int:
        """Loops to run before anybody is asked who has left."""
        left = [run.track.n_loops - run.loop for run in runs]
        leaves = [run.track.leave for run in runs if run.track.leave is not None]
        if any(counted(leave.exit, 0) == 0 for leave in leaves):
            return 1
        if not self._leaves(runs):
            return min(left)
        # What leaves must be seen in the loops that follow by the rest of its piece.
        alone = all(len(run.lanes) == 1 for run in runs)
        return min(self.settings.stride, max(left)) if alone else 1

    def _turn(self, runs: Sequence[Run], turns: int) -> list[list[int]]:
        call = self._call(runs)
        parties = self._parties(call)
        loop = partial(self.stages.loop, parties=parties, turns=turns)
        # Several parties go by their rows, and what a user's own exit goes by nobody knows.
        alike = len(parties) == 1 and parties[0].known
        gone = self._run(loop, call, "loop", turns, parties[0]) if alike else loop(call)
        if not self._leaves(runs):
            return [
                [run.loop + turns if run.loop + turns == run.track.n_loops else 0] * len(run.lanes)
                for run in runs
            ]
        numbers = gone.tolist()
        size = self.settings.block_size
        left: dict[int, list[int]] = {}
        shown: list[tuple[int, int, int]] = []
        for run, start in zip(call.runs, call.starts, strict=True):
            left[run.track.id] = numbers[start : start + len(run.lanes)]
            shown += [
                (place(run.track, at, size), loops, run.track.n_loops)
                for at, loops in zip(run.positions, left[run.track.id], strict=True)
                if loops
            ]
        self.stages.pages.deepen(shown)
        return [left[run.track.id] for run in runs]

    def land(self, runs: Sequence[Run]) -> Landing:
        """The coda for flights that have left the loop, and the logits that somebody reads."""
        call, stages = self._call(runs), self.stages
        if self.graphs is not None and self.graphs.fits(call):
            said = self._run(lambda c: stages.logits(stages.coda(c)), call, "land")
            return self._landing(call, runs, said)
        return self._landing(call, runs, stages.coda(call), stages.logits)

    def _landing(
        self,
        call: Call,
        runs: Sequence[Run],
        said: Tensor,
        head: Callable[[Tensor], Tensor] = torch.clone,
    ) -> Landing:
        """What is read of what a stage `said` of a call's rows, each part through the `head`."""
        rows = {
            run.track.id: slice(start, start + len(run.lanes))
            for run, start in zip(call.runs, call.starts, strict=True)
        }
        whole = {r.track.id: head(said[rows[r.track.id]]) for r in runs if r.track.whole}
        ends = [rows[run.track.id].stop - 1 for run in runs if run.speaks]
        if not ends:
            return Landing(None, whole)
        at = upload(ends, self.device)
        return Landing(head(said.index_select(0, at)), whole, self._read(call, at))

    def _read(self, call: Call, rows: Tensor) -> Tensor | None:
        if not self.stages.notes(run.track.leave for run in call.runs):
            return None
        return self.stages.read(call.lanes.index_select(0, rows))

    def _call(self, runs: Sequence[Run]) -> Call:
        self.stages.tables.follow(run.track for run in runs)
        return Call.of(runs, self.settings, self.stages.pages)

    def _run(self, stage: Callable[[Call], Tensor], call: Call, *name: Hashable) -> Tensor:
        """A stage, replayed where its shape has been captured or can be."""
        if self.graphs is None or not self.graphs.fits(call):
            return stage(call)
        return self.graphs.run(stage, call, name)

    def _parties(self, call: Call) -> list[Party]:
        """The rows of a call, those whose accounts are kept in one way together."""
        if all(run.track.leave is None for run in call.runs):
            return [Party(None, 0)]
        rows: dict[tuple[int, int], list[int]] = {}
        leaves: dict[int, Leave | None] = {}
        for run, start in zip(call.runs, call.starts, strict=True):
            leave = run.track.leave
            leaves[id(leave)] = leave
            key = (id(leave), 0 if leave is None else counted(leave.exit, run.loop))
            rows.setdefault(key, []).extend(range(start, start + len(run.lanes)))
        if len(rows) == 1:  # fillers go along, whatever is thought of them
            ((which, loop),) = rows
            return [Party(leaves[which], loop)]
        return [
            Party(leaves[which], loop, upload(numbers, self.device))
            for (which, loop), numbers in rows.items()
        ]
