"""Engine: requests in, tokens out; a step is a loop of all positions that are in it."""

import copy
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from open_mythos.engine.admission import Admission
from open_mythos.engine.counters import Counters, Stats
from open_mythos.engine.flight import Run, Track
from open_mythos.engine.request import Completion, Event, Finish, Request
from open_mythos.engine.residents import Residents, Said
from open_mythos.engine.runner import Landing, Runner
from open_mythos.engine.scheduler import Scheduler
from open_mythos.engine.settings import EngineConfig
from open_mythos.engine.writer import Writer
from open_mythos.errors import BusyError, InputError
from open_mythos.generate.detokenise import Spelling
from open_mythos.generate.logprobs import token_logprobs
from open_mythos.generate.rows import choose
from open_mythos.model.mythos import OpenMythos


class Engine:
    """Continuous depth-wise batching: whoever leaves the loop makes room for another at once.

    What a request says does not depend on its company: its tokens are those of `model.generate`
    for it alone, with its loops and its exit, up to the rounding of sums in another order; its
    draws follow from its seed and the position. Not for several threads: see `AsyncEngine`.

    Attributes:
        settings: Sizes.
        runner: The model, and all tensors.
        scheduler: Who runs.
        residents: Who of them stays on the device between its tokens; None where nobody does.
        counters: What was done so far.
        moved: Whether the last step did anything.
    """

    def __init__(
        self,
        model: OpenMythos,
        tokenizer: Spelling | None = None,
        settings: EngineConfig | None = None,
    ) -> None:
        """Allocate the cache.

        Args:
            model: The network, in evaluation mode; `refresh` after changing its weights.
            tokenizer: Writes text and knows the end of one; None: tokens only, and no stop strings.
            settings: Sizes; None: the defaults.

        Raises:
            InputError: If the model cannot serve requests side by side.
        """
        self.settings = EngineConfig() if settings is None else settings
        self._admission = Admission(model, tokenizer, self.settings)
        self.runner = Runner(model, self.settings)
        self.scheduler = Scheduler(self.settings)
        ahead = self.settings.resident
        if ahead is None:
            ahead = 0 if self.runner.graphs is None else 2
        self.residents = Residents(self.runner, ahead) if ahead else None
        at_once = self.settings.prompts_at_once
        self._at_once = self.residents is not None if at_once is None else at_once
        self.counters = Counters()
        self._writers: dict[int, Writer] = {}  # by track
        self._tracks: dict[int, list[Track]] = {}  # by request
        self._staying: list[Track] = []
        self._numbers = 0
        self._ended: list[Event] = []
        self.moved = False

    # -- requests --------------------------------------------------------------------------------

    def check(self, request: Request) -> None:
        """Refuse a request that cannot be answered, now or later.

        Raises:
            InputError: Naming what is wrong.
            ConfigError: If its exit has a wrong name or threshold.
        """
        self._admission.check(request)

    def add(self, request: Request) -> int:
        """Take in a request; the number that its events carry.

        Raises:
            InputError: As `check`.
            ConfigError: Likewise.
            BusyError: If too many wait.
        """
        self.check(request)
        if not self.takes(request):
            raise BusyError(
                f"{len(self.scheduler.waiting)} continuations wait and this request asks for "
                f"{request.sampling.n}; engine.queue is {self.settings.queue}: try again later"
            )
        number = self._numbers
        self._numbers += 1
        self.counters.requests += 1
        for writer, track in self._admission.admit(request, number):
            self._writers[track.id] = writer
            self._tracks.setdefault(number, []).append(track)
            self.scheduler.add(track)
        return number

    def takes(self, request: Request) -> bool:
        """Whether there is room in the queue."""
        return len(self.scheduler.waiting) + request.sampling.n <= self.settings.queue

    def cancel(self, number: int) -> bool:
        """End a request; whether it was still there. The next step tells of its end."""
        tracks = list(self._tracks.get(number, ()))
        self._ended += [self._end(track, "cancelled") for track in tracks]
        return bool(tracks)

    def hold(self, number: int, *, still: bool = True) -> None:
        """Let a request rest, or go on: who cannot take more tokens now gets none."""
        for track in self._tracks.get(number, ()):
            track.held = still
            if still:
                self.scheduler.rise(track)

    @property
    def busy(self) -> bool:
        """Whether a step would do something."""
        return bool(self._ended) or any(
            not track.held or track.flight is not None for track in self.scheduler.tracks.values()
        )

    @property
    def stats(self) -> Stats:
        """What it is doing now, and has done so far."""
        scheduler, pool = self.scheduler, self.scheduler.pool
        flights = [track.flight for track in scheduler.running if track.flight is not None]
        return Stats(
            waiting=len(scheduler.waiting),
            running=len(scheduler.running),
            lanes=sum(len(flight.lanes) for flight in flights) + scheduler.seated,
            blocks=pool.count,
            used=pool.used,
            idle=pool.idle,
            block_bytes=self.runner.stages.pages.block_bytes,
            reused=scheduler.reused,
            preemptions=scheduler.preemptions,
            evictions=pool.evicted,
            totals=copy.copy(self.counters),
        )

    def refresh(self) -> None:
        """Take over weights that have changed, and forget what was read with the old ones.

        Raises:
            InputError: If requests are under way.
        """
        if self.scheduler.tracks:
            raise InputError("weights can change between requests only; let them end, or cancel")
        if self.residents is not None:
            self.residents.sweep()
        self.runner.refresh()
        self.scheduler.pool.forget_all()

    # -- steps -----------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Finish what has left the loop, let others in, and loop all that are in it."""
        events, self._ended = self._ended, []
        self.counters.steps += 1
        self.moved = bool(events)
        if self.residents is not None and self.residents.busy:
            self.moved = True
            events += self._go_on(self.residents)
        if self.scheduler.restless:
            events += self._plan()
        return events

    def _go_on(self, residents: Residents) -> list[Event]:
        """Tokens of those that stay on the device, and more work for it."""
        events = self._commit(residents, residents.collect())
        if self.scheduler.risen:
            self.scheduler.risen = False
            residents.sweep()
        self.counters.turns += residents.launch()
        return events

    def _plan(self) -> list[Event]:
        """A step of those whose positions the host knows one by one."""
        events: list[Event] = []
        landing = self.scheduler.landing()
        if landing:
            events += self._land(landing, self.runner.land(landing))
            self._seat()
        entering = self.scheduler.begin()
        if self._at_once:
            pieces = [run for run in entering if self.runner.reads(run)]
            events += self._read(pieces)
            entering = [run for run in entering if not self.runner.reads(run)]
            landing = landing or pieces
        if entering:
            events += self._enter(entering)
        going = self.scheduler.turn()
        if going:
            done = self.runner.turn(going)
            self.scheduler.turned(going, done.turns, done.left)
            self.counters.turns += done.turns
            self.counters.positions += done.turns * sum(len(run.lanes) for run in going)
        self._seat()
        self.moved = self.moved or bool(landing or entering or going)
        return events

    def run(self) -> Iterator[Event]:
        """Step until nobody is left who may go on."""
        while self.busy:
            yield from self.step()

    def complete(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """The continuations of each request, when all have ended; more may be given than can wait.

        Raises:
            InputError: If a request cannot be answered, or others are under way.
        """
        if self.scheduler.tracks:
            raise InputError("other requests are under way; take their events from run()")
        for request in requests:
            self.check(request)
        numbers: list[int] = []
        told: dict[tuple[int, int], list[Event]] = {}
        while len(numbers) < len(requests) or self.busy:
            while len(numbers) < len(requests) and self.takes(requests[len(numbers)]):
                numbers.append(self.add(requests[len(numbers)]))
            for event in self.step():
                told.setdefault((event.request, event.choice), []).append(event)
        return [
            [Completion.of(told[number, choice]) for choice in range(request.sampling.n)]
            for number, request in zip(numbers, requests, strict=True)
        ]

    def _read(self, runs: Sequence[Run]) -> list[Event]:
        """Pieces of prompts, all that they have to pass; those that leave alike together."""
        self.counters.read += sum(len(run.lanes) for run in runs)
        groups: dict[tuple[int, int], list[Run]] = {}
        for run in runs:
            groups.setdefault((id(run.track.leave), run.track.n_loops), []).append(run)
        events: list[Event] = []
        for group in groups.values():
            done = self.runner.read(group)
            self.scheduler.read(group, done.left)
            self.counters.turns += sum(turns for turns, _ in done.ran)
            self.counters.positions += sum(turns * rows for turns, rows in done.ran)
            events += self._land(group, done.landing)
        return events

    def _enter(self, runs: Sequence[Run]) -> list[Event]:
        """The prelude; where everybody goes the same way, all the rest of it in the same call."""
        flights = sum(track.flight is not None for track in self.scheduler.running)
        self.counters.read += sum(len(run.lanes) for run in runs)
        if len(runs) != flights or not self.runner.straight(runs):
            self.runner.enter(runs)
            self.scheduler.entered(runs)
            return []
        landing, loops = self.runner.through(runs), runs[0].track.n_loops
        self.scheduler.entered(runs)
        self.scheduler.turned(runs, loops, [[loops]] * len(runs))
        self.counters.turns += loops
        self.counters.positions += loops * len(runs)
        return self._land(runs, landing)

    def _land(self, runs: Sequence[Run], landing: Landing) -> list[Event]:
        """A token for each request whose flight ends with its last token."""
        for run in runs:
            if run.track.id in landing.whole:
                self._tell(run, landing.whole[run.track.id])
        speaking = [run for run in runs if run.speaks]
        loops = {run.track.id: self.scheduler.land(run.track) for run in runs}
        if landing.logits is None:
            return []
        writers = [self._writers[run.track.id] for run in speaking]
        chosen = choose(landing.logits, [writer.row for writer in writers])
        wanted = [writer.asked.sampling.logprobs for writer in writers]
        logprobs = token_logprobs(landing.logits, chosen, wanted)
        sound = landing.logits.sum(-1).isfinite()  # a tenth of the time that each by itself takes
        read = torch.zeros_like(chosen) if landing.read is None else landing.read
        tokens, numbers, left = torch.stack((chosen, sound.to(chosen.dtype), read)).tolist()
        events = []
        for i, run in enumerate(speaking):
            track = run.track
            if not numbers[i]:
                self.runner.stages.pages.scrub(self.scheduler.pool.disown(track.blocks))
                events.append(self._end(track, "error"))
            elif not writers[i].most:
                events.append(self._end(track, "length"))
            else:
                event = writers[i].write(tokens[i], loops[track.id], logprobs[i], left[i])
                track.tokens.append(tokens[i])
                self.counters.tokens += 1
                self.counters.loops += loops[track.id]
                events.append(event)
                if event.finish is not None:
                    self._remove(track)
                elif self.residents is not None:
                    self._staying.append(track)
        return events

    def _seat(self) -> None:
        """Let who has just said a token stay on the device, while no run waits for its stage.

        Somebody may have to give his blocks for it: those who are under way, or who stay next.
        """
        for track in self._staying:
            writer, residents = self._writers[track.id], self.residents
            if residents is not None and track.row >= 0 and residents.welcomes(track, writer):
                residents.take(self.scheduler, track, writer)
        self._staying.clear()

    def _commit(self, residents: Residents, said: Iterable[Said]) -> list[Event]:
        """A token for each time that somebody who stays on the device has said one."""
        counters, scheduler, pages = self.counters, self.scheduler, self.runner.stages.pages
        events: list[Event] = []
        count, ran, size = 0, 0, self.settings.block_size
        for seat, token, loops, read, sound in said:
            track = seat.track
            if track.seat is not seat:  # he has left meanwhile
                continue
            if not sound:
                pages.scrub(scheduler.pool.disown(track.blocks))
                events.append(self._end(track, "error"))
                continue
            event = seat.writer.write(token, loops, None, read)
            events.append(event)
            tokens = track.tokens
            tokens.append(token)
            track.cached = cached = track.cached + 1
            if cached % size == 0:
                scheduler.publish(track)
            ran += loops
            count += 1
            if event.finish is not None:
                self._remove(track)
            elif len(tokens) > seat.ample:
                residents.provide(scheduler, seat)
        counters.tokens += count
        counters.read += count
        counters.loops += ran
        counters.positions += ran
        return events

    def _tell(self, run: Run, logits: Tensor) -> None:
        """Note what was thought of the prompt's tokens that follow a run's positions (n, vocab)."""
        writer = self._writers[run.track.id]
        prompt, count = writer.asked.prompt, writer.asked.prompt_logprobs
        known = [at for at in run.positions if at + 1 < len(prompt)]
        if not known:
            return
        follow = torch.tensor([prompt[at + 1] for at in known], device=logits.device)
        told = token_logprobs(logits[: len(known)], follow, [count] * len(known))
        writer.prompt |= {at + 1: one for at, one in zip(known, told, strict=True)}

    def _end(self, track: Track, finish: Finish) -> Event:
        event = self._writers[track.id].end(finish)
        self._remove(track)
        return event

    def _remove(self, track: Track) -> None:
        writer = self._writers.pop(track.id)
        self.scheduler.remove(track)
        self.counters.finished += 1
        rest = [other for other in self._tracks[writer.request] if other is not track]
        if rest:
            self._tracks[writer.request] = rest
        else:
            del self._tracks[writer.request]
