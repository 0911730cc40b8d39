"""Many streams at once from a server in a process of its own, each answer held against a run alone.

    python benchmarks/serve_load.py --streams 500 --seconds 300 --out serve-load.json

A tiny random model in float64 (a near-tie falls one way) is saved and served by
`open-mythos serve`. `--pool` requests of unlike prompts, lengths, loops, seeds and stops are first
answered one by one by an engine in this process. Then so many clients as `--streams` says ask for
one of them after the other, streamed, until `--seconds` have passed: an answer whose text or loops
differ in anything is "wrong", one that does not come to its end is "lost". Told are the times to
the first token and to the end, and the server's memory, open files and blocks before and after
(both after a warm-up of one request per client). In the end all clients ask once more, and SIGTERM
comes while they are answered: all must still get their answers, and the exit code must be 0.

With `--replicas 2 --kill` replicas answer, and one of them is killed at half time: what it had ends
as "failed", and nothing else may. Memory and files are then those of the door.

The clients share the cores with the server; on two cores the times are theirs, too.
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tiny_server import Fetched, Process, deliver, fetch, tiny_model

from open_mythos.bench.machine import about
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.engine.engine import Engine
from open_mythos.engine.request import Request
from open_mythos.engine.settings import EngineConfig
from open_mythos.generate.params import SamplingParams
from open_mythos.model.mythos import OpenMythos


# -- the clients -----------------------------------------------------------------------------------


def answer(found: Fetched) -> tuple[str, list[int]] | None:
    """Text and loops of a stream; None if it did not come to its end."""
    if found.status != 200 or not found.body.endswith("data: [DONE]\n\n"):
        return None
    text, loops, finish = "", [], None
    for line in found.body.split("\n\n")[:-2]:
        [choice] = json.loads(line.removeprefix("data: "))["choices"]
        text, loops = text + choice["text"], loops + choice["loops"]
        finish = choice["finish_reason"] or finish
    return None if finish is None else (text, loops)


@dataclass
class Asked:
    """A request, and what it must be answered."""

    body: dict[str, Any]
    text: str
    loops: list[int]


def make_pool(model: OpenMythos, count: int) -> list[Asked]:
    """Unlike requests with their answers, each from an engine with nobody else in it."""
    draws = random.Random(0)
    engine = Engine(model, ByteTokenizer(), EngineConfig(blocks=32, block_size=16, rows=1))
    pool = []
    for i in range(count):
        prompt = [draws.randrange(256) for _ in range(draws.randint(1, 48))]
        told: dict[str, Any] = {"temperature": draws.choice([0.0, 1.0]), "seed": i,
                                "max_tokens": draws.randint(4, 48)}  # fmt: skip
        if draws.random() < 0.3:
            told["stop"] = [draws.choice("aeiou ")]
        loops = draws.randint(1, 4)
        sampling = SamplingParams(**{**told, "stop": tuple(told.get("stop", ()))})
        [[alone]] = engine.complete([Request(prompt, sampling, loops)])
        body = {"model": "tiny", "prompt": prompt, "num_loops": loops, "stream": True, **told}
        pool.append(Asked(body, alone.text, list(alone.loops)))
    return pool


@dataclass
class Tally:
    """What came back."""

    answers: int = 0
    lost: int = 0
    wrong: int = 0
    refused: int = 0
    failed: int = 0
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)

    def add(self, asked: Asked, found: Fetched) -> None:
        told = answer(found)
        if "replica_lost" in found.body:
            self.failed += 1
        elif found.status in (429, 503):
            self.refused += 1
        elif told is None:
            self.lost += 1
        elif told != (asked.text, asked.loops):
            self.wrong += 1
        else:
            self.answers += 1
            self.first.append(found.first)
            self.last.append(found.last)


async def crowd(port: int, pool: list[Asked], streams: int, seconds: float) -> Tally:
    """So many clients, each with one request after the other; at least one each."""
    tally, end = Tally(), time.monotonic() + seconds

    async def client(number: int) -> None:
        draws = random.Random(number)
        while True:
            asked = draws.choice(pool)
            try:
                tally.add(asked, await fetch(port, "POST", "/v1/completions", asked.body))
            except OSError:
                tally.lost += 1
            if time.monotonic() >= end:
                return

    await asyncio.gather(*(client(number) for number in range(streams)))
    return tally


async def crowd_and_signal(server: Process, pool: list[Asked], streams: int) -> Tally:
    """One request of each client, and SIGTERM once all are accepted."""
    asking = asyncio.create_task(crowd(server.port, pool, streams, 0.0))
    end = time.monotonic() + 60
    while time.monotonic() < end and not asking.done():
        text = (await fetch(server.port, "GET", "/metrics")).body
        most = next(line for line in text.splitlines() if line.startswith("open_mythos_in_flight "))
        # Some are answered while the last come in; all are once as many are in as ever will be.
        if float(most.split()[1]) >= 0.5 * streams:
            await asyncio.sleep(0.5)
            break
    server.process.send_signal(signal.SIGTERM)
    return await asking


def percentiles(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100)
    return {"p50": round(cuts[49], 4), "p99": round(cuts[98], 4), "max": round(max(values), 4)}


def told(tally: Tally) -> dict[str, Any]:
    return {
        "answers": tally.answers, "lost": tally.lost, "wrong": tally.wrong,
        "refused": tally.refused, "failed": tally.failed, "first_token_s": percentiles(tally.first),
        "answer_s": percentiles(tally.last),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--pool", type=int, default=200)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--replicas", type=int, default=0)
    parser.add_argument("--kill", action="store_true", help="one of the replicas, at half time")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "tiny"
        pool = make_pool(tiny_model(folder), options.pool)
        in_flight = max(512, options.streams + 8)
        server = Process(folder, f"engine.rows={options.rows}", f"serve.in_flight={in_flight}",
                         f"serve.connections={4 * in_flight}",
                         f"replicas.count={options.replicas}")  # fmt: skip
        asyncio.run(crowd(server.port, pool, options.streams, 0.0))
        before = server.state()
        began = time.monotonic()
        if options.kill:
            threading.Timer(options.seconds / 2, server.kill_replica).start()
        tally = asyncio.run(crowd(server.port, pool, options.streams, options.seconds))
        seconds = time.monotonic() - began
        after = server.state()
        last = asyncio.run(crowd_and_signal(server, pool, options.streams))
        code = server.end()
    result = {
        "machine": about(torch.device("cpu"), [], None), "streams": options.streams,
        "replicas": options.replicas,
        "seconds": round(seconds, 1),
        "load": told(tally), "before": before, "after": after,
        "sigterm": told(last) | {"exit": code},
    }  # fmt: skip
    deliver(result, options)


if __name__ == "__main__":
    main()
