"""Engine: requests in, tokens out; every step is one loop of all positions that are in it."""

from collections.abc import Iterator, Sequence

import torch

from open_mythos.engine.blocks import root_name
from open_mythos.engine.flight import Track
from open_mythos.engine.request import Event, Finish, Request
from open_mythos.engine.runner import Runner
from open_mythos.engine.scheduler import Scheduler
from open_mythos.engine.settings import EngineConfig
from open_mythos.errors import InputError
from open_mythos.model.mythos import OpenMythos


class Engine:
    def __init__(self, model, settings=None):
        self.model = model
        self.settings = settings or EngineConfig()
        self.scheduler = Scheduler(self.settings)
        self.runner = Runner(model, self.settings)
        self.requests = {}
        self._next = 0

    def add(self, request):
        from open_mythos.model.leaving import leaving
        n = request.n_loops or self.runner.n_loops
        leave = leaving(request.exit, self.model, n)
        key = self._next
        self._next += 1
        root = root_name(n, str(leave.exit) if leave else None) if self.settings.share_prefixes else None
        self._leaves = getattr(self, "_leaves", {})
        leave = self._leaves.setdefault(str(request.exit), leave)
        self.scheduler.add(Track(key, list(request.prompt), n, root, leave))
        self.requests[key] = request
        return key

    @torch.no_grad()
    def step(self):
        s = self.scheduler
        events = []
        runs = s.landing()
        if runs:
            logits = self.runner.land(runs)
            speaking = [r for r in runs if r.speaks]
            tokens = [] if logits is None else logits.argmax(-1).tolist()
            said = dict(zip([r.track.id for r in speaking], tokens, strict=True))
            for run in runs:
                track = run.track
                loops = track.flight.left[-1]
                s.land(track)
                if track.id in said:
                    track.tokens.append(said[track.id])
                    req = self.requests[track.id]
                    n = len(track.tokens) - len(req.prompt)
                    fin = "length" if n >= req.sampling.max_tokens else None
                    events.append(Event(track.id, 0, said[track.id], loops, fin))
                    if fin:
                        s.remove(track)
        runs = s.begin()
        if runs:
            self.runner.enter(runs)
            s.entered(runs)
        runs = s.turn()
        if runs:
            s.turned(runs, self.runner.turn(runs))
        return events
