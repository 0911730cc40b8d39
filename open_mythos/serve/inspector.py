"""Inspector: what a text looks like from inside the loop, asked of the model between its tokens."""

import asyncio
import json
import math
import threading
import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from open_mythos.config.budget import cache_bytes_per_token
from open_mythos.engine.front import AsyncEngine
from open_mythos.engine.request import Request
from open_mythos.errors import BusyError, ConfigError, InputError
from open_mythos.eval.lens import Lens, look_through
from open_mythos.generate.params import SamplingParams
from open_mythos.model.leaving import leaving
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.criterion import Criterion
from open_mythos.nn.loop.exits.registry import CALIBRATED, EXITS
from open_mythos.serve.bodies import InspectBody
from open_mythos.serve.questions import Reader
from open_mythos.serve.refusals import Refusal, broken, invalid
from open_mythos.serve.spellings import Spellings


TOP = 5  # likeliest tokens of each prediction, where nothing is said
DIGITS = 6  # of a number in the answer: there are thousands


class Inspector:
    """Looks into one text at a time, in the engine's thread.

    The model is thus never in two passes at once, and at most one look lies between two steps of
    the engine, however many were asked for: streams go on, more slowly.
    """

    def __init__(self, front: AsyncEngine, reader: Reader, spellings: Spellings) -> None:
        """With nothing asked."""
        self._front, self._reader, self._spellings = front, reader, spellings
        self._turn = asyncio.Lock()

    async def look(self, body: InspectBody, ids: list[int], prompt: int) -> bytes:
        """The answer as JSON.

        Args:
            body: What was asked.
            ids: The text.
            prompt: Tokens of it that are the prompt.

        Raises:
            Refusal: If the model cannot be asked that, or what it says are no numbers.
        """
        model = self._front.engine.runner.model
        loops = self._loops(model, body)
        request = Request(ids, SamplingParams(max_tokens=0), loops, body.exit)
        gone = threading.Event()

        def work() -> tuple[Lens | None, float]:
            began = time.perf_counter()
            if gone.is_set():  # nobody waits any more, and others do
                return None, 0.0
            found = look_through(model, ids, loops, body.exit, body.top or TOP)
            return found, time.perf_counter() - began

        try:
            self._front.engine.check(request)
            async with self._turn:
                lens, seconds = await self._front.ask(work)
        except (InputError, ConfigError) as error:
            raise invalid(str(error)) from error
        except BusyError as error:
            raise Refusal(503, str(error), code="overloaded", wait=1.0) from error
        except asyncio.CancelledError:
            gone.set()
            raise
        if lens is None or not lens.sound:
            raise broken()
        return await asyncio.to_thread(self._told, body, ids, prompt, loops, lens, seconds)

    def _loops(self, model: OpenMythos, body: InspectBody) -> int:
        """As the engine takes them for the same words."""
        if body.num_loops is None and body.exit == CALIBRATED and model.calibrated is not None:
            return model.calibrated.n_loops
        return body.num_loops or self._reader.n_loops

    def _told(
        self, body: InspectBody, ids: Sequence[int], prompt: int, loops: int, lens: Lens,
        seconds: float,
    ) -> bytes:  # fmt: skip
        first = min(body.first or 0, len(ids) - 1)
        told = {
            "object": "inspection",
            "model": body.model,
            "num_loops": lens.n_loops,
            "prompt_tokens": prompt,
            "total_tokens": len(ids),
            "first": first,
            "positions": _positions(lens, ids, first, self._spellings),
            "spellings": self._spelt(lens, first),
            "by_loop": _by_loop(self._front.engine.runner.model, lens, first),
            "cache": self._cache(loops, len(ids)),
            "seconds": round(seconds, DIGITS),
        }
        return json.dumps(told, separators=(",", ":"), allow_nan=False).encode()

    def _spelt(self, lens: Lens, first: int) -> dict[str, str]:
        shown = lens.tokens[:, first:].unique().tolist()
        return {str(token): self._spellings.text(token) for token in shown}

    def _cache(self, loops: int, count: int) -> dict[str, int]:
        """What the text costs in the cache: as it must be, and in the engine's blocks."""
        engine = self._front.engine
        model, size = engine.runner.model, engine.settings.block_size
        each = cache_bytes_per_token(model.cfg, loops, model.embed.weight.element_size())
        held = math.ceil(count / size) * engine.stats.block_bytes
        return {"bytes_per_token": each, "bytes": each * count, "held_bytes": held}


def _positions(
    lens: Lens, ids: Sequence[int], first: int, spellings: Spellings
) -> list[dict[str, Any]]:
    """By position: its token, its loops, and what it says after each loop of what comes next."""
    tokens, values = _by_position(lens.tokens, first), _by_position(lens.probabilities, first)
    following, entropy = _by_position(lens.following, first), _by_position(lens.entropy, first)
    change = _by_position(lens.change, first)
    halting = None if lens.halting is None else _by_position(lens.halting, first)
    loops = lens.loops[first:].tolist()
    return [
        {
            "id": token,
            "token": spellings.text(token),
            "loops": loops[i],
            "top": [
                [[one, round(p, DIGITS)] for one, p in zip(*loop, strict=True)]
                for loop in zip(tokens[i], values[i], strict=True)
            ],
            "next": _rounded(following[i]) if i < len(following) else None,
            "entropy": _rounded(entropy[i]),
            "change": _rounded(change[i]),
            "halting": None if halting is None else _rounded(halting[i]),
        }
        for i, token in enumerate(ids[first:])
    ]


def _by_position(table: Tensor, first: int) -> list[Any]:
    """(T, S, ...) as lists, by position from the first on, then by loop."""
    rows: list[Any] = table[:, first:].transpose(0, 1).tolist()
    return rows


def _by_loop(model: OpenMythos, lens: Lens, first: int) -> dict[str, Any]:
    """What the loops did: of all positions from the first on; loads and states are of the text."""
    count, layers = lens.router_load.shape[-1], len(model.recurrent.mixtures)
    experts = None
    if count:
        load = lens.router_load.tolist()
        experts = {"layers": layers, "count": count // layers, "load": load}
    loops = lens.loops[first:]
    left = [float((loops <= t).double().mean()) for t in range(1, lens.n_loops + 1)]
    halting = None if lens.halting is None else lens.halting[:, first:].mean(1).tolist()
    change = None if lens.state_change is None else lens.state_change.tolist()
    return {
        "left": _rounded(left),
        "halting": None if halting is None else _rounded(halting),
        "change": _rounded(lens.change[:, first:].mean(1).tolist()),
        "state_rms": _rounded(lens.state_rms.tolist()),
        "state_change": None if change is None else _rounded(change),
        "experts": experts,
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]


def known_exits(model: OpenMythos, n_loops: int) -> list[dict[str, Any]]:
    """Exits that the model can be asked for, with their default thresholds.

    Args:
        model: The network.
        n_loops: Loops of a pass.
    """
    found: list[dict[str, Any]] = []
    if model.calibrated is not None:
        found.append({"name": CALIBRATED, "threshold": None})
    for name, kind in EXITS.items():
        if kind.default is None or not _fits(kind(kind.default), model, n_loops):
            continue
        found.append({"name": name, "threshold": kind.default})
    return found


def _fits(rule: Criterion, model: OpenMythos, n_loops: int) -> bool:
    try:
        leaving(rule, model, n_loops)
    except InputError:
        return False
    return True
