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
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from open_mythos.bench.machine import about
from open_mythos.config.mythos import MythosConfig
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.tokenizer import save_tokenizer
from open_mythos.engine.engine import Engine
from open_mythos.engine.request import Request
from open_mythos.engine.settings import EngineConfig
from open_mythos.generate.params import SamplingParams
from open_mythos.model.mythos import OpenMythos


ROOT = Path(__file__).resolve().parents[1]
TINY: dict[str, Any] = {
    "vocab_size": 257,
    "dim": 16,
    "n_heads": 4,
    "n_kv_heads": 2,
    "max_seq_len": 128,
    "max_output_tokens": 64,
    "max_loop_iters": 4,
    "prelude_layers": 1,
    "coda_layers": 1,
    "attn_type": "gqa",
    "n_experts": 4,
    "n_experts_per_tok": 2,
    "expert_dim": 8,
    "dense_hidden": 24,
}


# -- the server ------------------------------------------------------------------------------------


def tiny_model(folder: Path) -> OpenMythos:
    """Random weights, away from where they start, saved with a tokenizer of bytes."""
    torch.manual_seed(0)
    model = OpenMythos(MythosConfig(**TINY)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    save_tokenizer(ByteTokenizer(), folder)
    return OpenMythos.from_pretrained(folder).eval()


class Process:
    """`open-mythos serve` on a free port; its log goes to a file."""

    def __init__(self, folder: Path, *settings: str) -> None:
        command = [sys.executable, "-m", "open_mythos", "serve", str(folder), "--port", "0"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        environment.pop("OPEN_MYTHOS_API_KEYS", None)
        self.log = folder.parent / "serve.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--device", "cpu", "--name", "tiny", *settings],
                stderr=log, env=environment,
            )  # fmt: skip
        self.port = self._port()

    def _port(self) -> int:
        end = time.monotonic() + 120
        while time.monotonic() < end and self.process.poll() is None:
            for line in self.log.read_text().splitlines():
                if "running on" in line:
                    return int(json.loads(line)["event"].split()[3].rsplit(":", 1)[1])
            time.sleep(0.1)
        self.process.kill()
        sys.exit(f"the server did not start:\n{self.log.read_text()}")

    def state(self) -> dict[str, Any]:
        """Memory in MB, open files, and what the engine holds."""
        root = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (root / "status").read_text().splitlines())
        found = {
            "rss_mb": round(int(status["VmRSS"].split()[0]) / 1024, 1),
            "files": len(list((root / "fd").iterdir())),
        }
        text = asyncio.run(fetch(self.port, "GET", "/metrics")).body
        for line in text.splitlines():
            name, _, value = line.rpartition(" ")
            if name in ("open_mythos_engine_used", "open_mythos_engine_blocks",
                        "open_mythos_in_flight", "open_mythos_engine_waiting"):  # fmt: skip
                found[name.removeprefix("open_mythos_")] = float(value)
        return found

    def kill_replica(self) -> None:
        """As the kernel would: one process of Ray's that holds a replica."""
        os.kill(replicas_below(self.process.pid)[0], signal.SIGKILL)

    def end(self) -> int:
        """SIGTERM, and the exit code; -9 if that took more than five minutes."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(300)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def replicas_below(top: int) -> list[int]:
    """Processes that hold a replica, among those that a process has begun, at whatever remove."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            rest = (folder / "stat").read_text().rpartition(")")[2]
            parents[int(folder.name)] = int(rest.split()[1])
    for pid in parents:
        above = pid
        while above > 1 and above != top:
            above = parents.get(above, 0)
        with suppress(OSError):
            name = Path(f"/proc/{pid}/cmdline").read_text()
            found += [pid] if above == top and name.startswith("ray::ServeReplica") else []
    return sorted(found)


# -- the clients -----------------------------------------------------------------------------------


@dataclass
class Fetched:
    """An answer, with the seconds to its first piece and to its end."""

    status: int = 0
    body: str = ""
    first: float = 0.0
    last: float = 0.0


async def fetch(port: int, method: str, path: str, told: dict[str, Any] | None = None) -> Fetched:
    """One request on a connection of its own; by HTTP/1.0, so that the answer ends with it."""
    body = b"" if told is None else json.dumps(told).encode()
    head = (
        f"{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    began, found = time.monotonic(), Fetched()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + body)
        await writer.drain()
        raw = bytearray()
        while piece := await reader.read(65536):
            raw += piece
            if not found.first and b"data: " in raw:
                found.first = time.monotonic() - began
    finally:
        writer.close()
    found.last = time.monotonic() - began
    start, _, rest = raw.partition(b"\r\n\r\n")
    found.status = int(start.split()[1]) if start else 0
    found.body = rest.decode("utf-8", "replace")
    return found


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
    text = json.dumps(result, indent=1, default=str)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
