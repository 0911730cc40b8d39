"""What a server bears: silent and trickling connections, and bodies that are wrong in every way.

    python benchmarks/serve_abuse.py --connections 10000 --out serve-abuse.json

A tiny random model is served by `open-mythos serve` in a process of its own. In turn:

half-open  So many connections as `--connections` says, or 80 % of the files that this process may
           open, of which every tenth sends a byte of a head now and then. Meanwhile an honest
           client asks for a completion once and again: told are how many it got, and how long the
           slowest took. Then all are given up, and the server's files must be those of before.
bodies     Requests that are wrong, `--rounds` times each: what they were answered, and that each
           was a 4xx. After every round an honest request must be answered.
leavers    Streams that are left after the first piece.

Told at the end are the server's memory, open files and blocks before and after.
"""

import argparse
import asyncio
import contextlib
import json
import resource
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tiny_server import Process, deliver, fetch, tiny_model

from open_mythos.bench.machine import about


COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HONEST = {"model": "tiny", "prompt": "hello", "max_tokens": 4}
SHARE = 0.8  # of the files that may be open


def wrong_bodies() -> dict[str, tuple[str, bytes, str]]:
    """Name -> path, body, content type."""
    sort = "application/json"

    def changed(**changes: Any) -> bytes:
        return json.dumps(HONEST | changes).encode()

    return {
        "empty": (COMPLETIONS, b"", sort),
        "malformed": (COMPLETIONS, b'{"model": "tiny", "prompt": ', sort),
        "deep": (COMPLETIONS, b"[" * 100_000, sort),
        "bad utf-8": (COMPLETIONS, b'{"model": "tiny", "prompt": "\xff\xfe"}', sort),
        "half a character": (COMPLETIONS, b'{"model": "tiny", "prompt": "\\ud800"}', sort),
        "a list": (COMPLETIONS, b"[1]", sort),
        "wrong type": (COMPLETIONS, changed(max_tokens="5"), sort),
        "not a number": (COMPLETIONS, b'{"model": "tiny", "prompt": "", "top_p": NaN}', sort),
        "absurd max_tokens": (COMPLETIONS, changed(max_tokens=10**9), sort),
        "huge number": (COMPLETIONS, b'{"model": "tiny", "seed": ' + b"9" * 5000 + b"}", sort),
        "unknown model": (COMPLETIONS, changed(model="gpt-9"), sort),
        "unknown field": (COMPLETIONS, changed(max_token=5), sort),
        "unknown token": (COMPLETIONS, changed(prompt=[300]), sort),
        "long prompt": (COMPLETIONS, changed(prompt="x" * 100_000), sort),
        "many prompts": (COMPLETIONS, changed(prompt=["x"] * 10_000), sort),
        "bad schema": (COMPLETIONS, changed(response_format={
            "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}
        }), sort),
        "bad exit": (COMPLETIONS, changed(exit="nothing:1"), sort),
        "10 MB": (COMPLETIONS, changed(prompt="x" * 10_000_000), sort),
        "a form": (COMPLETIONS, b"a=b", "application/x-www-form-urlencoded"),
        "an image": (CHAT, json.dumps({"model": "tiny", "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
        ]}).encode(), sort),
        "nowhere": ("/v1/nothing", b"{}", sort),
    }  # fmt: skip


async def send(port: int, path: str, body: bytes, sort: str) -> int:
    """The status of an answer; 0 where the connection ended without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: {sort}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        writer.write(head.encode() + body)
        line = await asyncio.wait_for(reader.readline(), 60)
        return int(line.split()[1]) if line else 0
    except ConnectionError:
        return 0
    finally:
        writer.close()


async def bodies(port: int, rounds: int) -> dict[str, Any]:
    statuses: dict[str, Counter[int]] = {}
    honest = 0
    for _ in range(rounds):
        for name, (path, body, sort) in wrong_bodies().items():
            statuses.setdefault(name, Counter())[await send(port, path, body, sort)] += 1
        honest += (await fetch(port, "POST", COMPLETIONS, HONEST)).status == 200
    clear = all(400 <= status < 500 for found in statuses.values() for status in found)
    return {"statuses": {name: dict(found) for name, found in statuses.items()},
            "all_4xx": clear, "honest_answered": honest, "rounds": rounds}  # fmt: skip


async def half_open(port: int, count: int, seconds: float) -> dict[str, Any]:
    held: list[socket.socket] = []
    loop = asyncio.get_running_loop()

    async def connect() -> None:
        one = socket.socket()
        one.setblocking(False)
        try:
            await asyncio.wait_for(loop.sock_connect(one, ("127.0.0.1", port)), 10)
        except (OSError, TimeoutError):
            one.close()
        else:
            held.append(one)

    async def attack(end: float) -> None:
        while len(held) < count and time.monotonic() < end:
            await asyncio.gather(*(connect() for _ in range(min(200, count - len(held)))))
        while time.monotonic() < end:
            for one in held[::10]:
                with contextlib.suppress(OSError):
                    one.send(b"G")
            await asyncio.sleep(1.0)

    times, refused = [], 0
    end = time.monotonic() + seconds
    attacking = asyncio.create_task(attack(end))
    while time.monotonic() < end:
        began = time.monotonic()
        try:
            found = await asyncio.wait_for(fetch(port, "POST", COMPLETIONS, HONEST), 30)
            status = found.status
        except (OSError, TimeoutError):
            status = 0
        if status == 200:
            times.append(time.monotonic() - began)
        else:
            refused += 1
        await asyncio.sleep(0.1)
    await attacking
    for one in held:
        one.close()
    return {"connections": len(held), "honest_answered": len(times), "honest_refused": refused,
            "slowest_s": round(max(times, default=0.0), 3)}  # fmt: skip


async def leavers(port: int, count: int) -> dict[str, Any]:
    async def one() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        told = {**HONEST, "max_tokens": 60, "n": 4, "stream": True, "ignore_eos": True}
        body = json.dumps(told).encode()
        head = (
            f"POST {COMPLETIONS} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        )
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        found = await reader.read(600)
        writer.close()
        return b" 200 " in found[:20]

    answered = await asyncio.gather(*(one() for _ in range(count)))
    return {"streams": count, "begun": sum(answered)}


async def settled(server: Process, files: int) -> float:
    """Seconds until nobody is in flight and files are as before; -1: not in a minute."""
    began = time.monotonic()
    while time.monotonic() - began < 60:
        state = await asyncio.to_thread(server.state)
        if not state["in_flight"] and not state["engine_used"] and state["files"] <= files + 2:
            return round(time.monotonic() - began, 2)
        await asyncio.sleep(0.5)
    return -1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--leavers", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = int(options.connections / SHARE) + 1
    files = min(wanted, most) if most != resource.RLIM_INFINITY else wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))  # the server inherits it
    count = min(options.connections, int(SHARE * files))
    result: dict[str, Any] = {"machine": about(torch.device("cpu"), [], None), "file_limit": files}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "tiny"
        tiny_model(folder)
        server = Process(folder)
        asyncio.run(bodies(server.port, 1))
        asyncio.run(leavers(server.port, 20))
        time.sleep(2.0)
        before = server.state()
        for name, work in (
            ("half_open", half_open(server.port, count, options.seconds)),
            ("bodies", bodies(server.port, options.rounds)),
            ("leavers", leavers(server.port, options.leavers)),
        ):
            result[name] = asyncio.run(work)
            result[name]["settled_s"] = asyncio.run(settled(server, before["files"]))
        result |= {"before": before, "after": server.state(), "exit": server.end()}
    deliver(result, options)


if __name__ == "__main__":
    main()
