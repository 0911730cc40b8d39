"""A server of a tiny random model in a process of its own, and requests to it by hand.

What `serve_load.py` and `serve_abuse.py` set up alike.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.tokenizer import save_tokenizer
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
        end = time.monotonic() + 300
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


def deliver(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the result; into the file, too, that `--out` names."""
    text = json.dumps(result, indent=1, default=str)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
