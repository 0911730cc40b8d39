"""Ray's side: what each replica gets, whose errors are whose, and two of which one dies."""

import asyncio
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.tokenizer import save_tokenizer
from open_mythos.engine.engine import Engine
from open_mythos.engine.request import Request
from open_mythos.engine.settings import EngineConfig
from open_mythos.errors import BusyError, ConfigError, LostError, MissingExtraError
from open_mythos.generate.params import SamplingParams


pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

from open_mythos.serve import cluster  # noqa: E402 -- extras
from open_mythos.serve.cluster import RayReplicas, ReplicaConfig, ray_replicas, share  # noqa: E402
from open_mythos.serve.guard import LetIn  # noqa: E402
from open_mythos.serve.replica import BODY, Call, Part, Plan  # noqa: E402


ROOT = Path(__file__).resolve().parents[2]
COMPLETIONS = "/v1/completions"
CALL = Call("GET", "/", b"", (), b"", LetIn("id", "ann", False))
LAST = Part(({"type": BODY, "body": b""},))


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": -1},
        {"count": True},
        {"count": 1.5},
        {"count": 1, "cpus": -1.0},
        {"count": 1, "gpus": float("nan")},
        {"count": 1, "start_seconds": 0.0},
        {"address": "auto"},
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"replicas\."):
        ReplicaConfig(**wrong)


@pytest.mark.parametrize(
    ("asked", "device", "there", "cpus", "gpus"),
    [
        ({"count": 2}, "cpu", {"CPU": 2.0}, 1.0, 0.0),
        ({"count": 2}, "auto", {"CPU": 9.0, "GPU": 2.0}, 4.0, 1.0),
        ({"count": 2}, "cpu", {"CPU": 9.0, "GPU": 2.0}, 4.0, 0.0),
        ({"count": 4}, "cpu", {"CPU": 2.0}, 0.5, 0.0),
        ({"count": 2, "gpus": 0.5}, "auto", {"CPU": 8.0, "GPU": 1.0}, 4.0, 0.5),
        ({"count": 2, "cpus": 1.0}, "cpu", {"CPU": 8.0}, 1.0, 0.0),
        ({"count": 64, "address": "auto"}, "cuda", {"CPU": 8.0}, 1.0, 1.0),
    ],
)
def test_a_machine_is_shared_out(
    asked: Any, device: str, there: Any, cpus: float, gpus: float
) -> None:
    found = share(ReplicaConfig(**asked), Plan("m", "m", device), there)
    assert (found.cpus, found.gpus) == (cpus, gpus)
    assert found.count == asked["count"]


@pytest.mark.parametrize(
    ("asked", "device", "words"),
    [
        ({"count": 2}, "cuda", "GPU each need more than the 1"),
        ({"count": 3, "cpus": 2.0}, "cpu", "CPU each need more than the 4"),
        ({"count": 2}, "cuda:0", "Ray deals out the GPUs"),
    ],
)
def test_what_a_machine_has_not_is_refused(asked: Any, device: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        share(ReplicaConfig(**asked), Plan("m", "m", device), {"CPU": 4.0, "GPU": 1.0})


def test_without_ray_there_is_a_word_on_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")  # put back at the end
    with (
        pytest.raises(MissingExtraError, match=r"open-mythos\[ray\]"),
        ray_replicas(Plan("m", "m"), ReplicaConfig(1)),
    ):
        pass


@pytest.fixture
def ray() -> Any:
    """Ray, whose import warns of what its makers do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("ray.serve")
        return importlib.import_module("ray")


def test_a_cluster_that_is_not_there_is_not_waited_for(ray: Any) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (
        pytest.raises(ConfigError, match="no Ray cluster"),
        ray_replicas(Plan("m", "m"), ReplicaConfig(1, address)),
    ):
        pass


class Answer:
    """What a handle gives: parts, or errors in their place."""

    def __init__(self, said: list[Any]) -> None:
        self.said, self.cancelled = iter(said), 0

    async def __anext__(self) -> Part:
        for one in self.said:
            if isinstance(one, Exception):
                raise one
            return one
        raise StopAsyncIteration

    def cancel(self) -> None:
        self.cancelled += 1


@dataclass
class Handle:
    """A handle whose answers are known before."""

    answers: list[Answer]
    asked: int = 0
    answer: Any = field(init=False)

    def __post_init__(self) -> None:
        self.answer = self

    def options(self, stream: bool) -> "Handle":
        assert stream
        return self

    def remote(self, call: Call) -> Answer:
        assert call is CALL
        self.asked += 1
        return self.answers[self.asked - 1]


def parts(*answers: list[Any], most: int = 99) -> tuple[list[Part], Handle]:
    """Parts of a call until its end or an error, or until `most` were taken."""
    handle = Handle([Answer(said) for said in answers])

    async def work() -> list[Part]:
        found: list[Part] = []
        asked = RayReplicas(handle).ask(CALL)
        async for part in asked:
            found.append(part)
            if len(found) == most:
                break
        await asked.aclose()
        return found

    return asyncio.run(work()), handle


def test_a_call_that_nobody_began_goes_to_another_replica(ray: Any) -> None:
    dead = ray.exceptions.ActorDiedError()
    found, handle = parts([dead], [dead], [Part(), Part(tokens=1), LAST])
    assert found == [Part(tokens=1), LAST]
    assert (handle.asked, [a.cancelled for a in handle.answers]) == (3, [0, 0, 0])
    with pytest.raises(BusyError, match="gone before"):
        parts(*[[dead]] * cluster.TRIES)


def test_errors_of_ray_are_ours(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = ray.exceptions
    with pytest.raises(LostError, match="died"):
        parts([Part(), Part(tokens=1), errors.ActorDiedError()])
    with pytest.raises(RuntimeError, match="a replica failed") as found:
        parts([Part(), errors.WorkerCrashedError()])
    assert not isinstance(found.value, LostError)
    from ray.serve.exceptions import DeploymentUnavailableError

    with pytest.raises(BusyError):
        parts([DeploymentUnavailableError.__new__(DeploymentUnavailableError)])

    async def never(answer: Any) -> None:
        await asyncio.sleep(30)

    monkeypatch.setattr(cluster, "_next", never)
    monkeypatch.setattr(cluster, "ACCEPTED", 0.01)
    with pytest.raises(BusyError, match="no replica took"):
        parts([])


def test_only_what_has_not_ended_is_cancelled(ray: Any) -> None:
    for most, cancelled in ((1, 1), (2, 0), (99, 0)):
        _, handle = parts([Part(), Part(tokens=1), LAST], most=most)
        assert [a.cancelled for a in handle.answers] == [cancelled]


# -- with Ray ------------------------------------------------------------------------------------


@dataclass
class Process:
    """`open-mythos serve --replicas 2` in a process of its own."""

    process: "subprocess.Popen[str]"
    lines: list[str] = field(default_factory=list)
    url: str = ""

    def read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if "running on" in line:
                self.url = json.loads(line)["event"].split()[3]

    def wait(self, what: Any, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < end, self.lines
            time.sleep(0.05)

    @property
    def running(self) -> int:
        return int(httpx.get(f"{self.url}/ready", timeout=30).json()["replicas"])

    def ours(self) -> dict[int, str]:
        """Processes below this one, with what they call themselves."""
        parents, names = {}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                rest = (folder / "stat").read_text().rpartition(")")[2].split()
                names[int(folder.name)] = (folder / "cmdline").read_text().split("\0")[0]
                parents[int(folder.name)] = int(rest[1])
            except OSError:
                continue
        mine, grown = {self.process.pid}, True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in mine} - mine
            grown, mine = bool(more), mine | more
        return {pid: names[pid] for pid in mine - {self.process.pid}}

    def replicas(self) -> set[int]:
        return {pid for pid, name in self.ours().items() if name.startswith("ray::ServeReplica")}


@pytest.fixture
def served(build_model: Any, tmp_path: Path) -> Iterator[Any]:
    """A model in float64, in which near-ties fall one way, and two replicas that serve it."""
    if find_spec("ray") is None:
        pytest.skip("without ray")
    if not Path("/proc/self/stat").exists():
        pytest.skip("the processes of Ray are looked for in /proc")
    model, folder = build_model().double(), tmp_path / "tiny"
    model.save_pretrained(folder)
    save_tokenizer(ByteTokenizer(), folder)
    command = [sys.executable, "-m", "open_mythos", "serve", str(folder), "--port", "0",
               "--device", "cpu", "--replicas", "2", "engine.rows=8"]  # fmt: skip
    told = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    environment = {**os.environ, **told}
    for name in ("OPEN_MYTHOS_API_KEYS", "RAY_ADDRESS"):
        environment.pop(name, None)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        server = Process(process)
        reader = threading.Thread(target=server.read)
        reader.start()
        try:
            server.wait(lambda: server.url)
            server.wait(lambda: server.running == 2)
            yield model, server
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)
            reader.join(30)


def streamed(url: str, body: dict[str, Any]) -> tuple[str, list[int], str | None]:
    """Text and loops of a stream, and the code of the error that it ended in."""
    text, loops = "", []
    whole = {"model": "tiny", "stream": True, **body}
    with httpx.stream("POST", url + COMPLETIONS, json=whole, timeout=120) as answer:
        if answer.status_code != 200:
            answer.read()
            return "", [], str(answer.json()["error"]["code"])
        lines = [line[6:] for line in answer.iter_lines() if line]
    for line in lines[:-1]:
        choice = json.loads(line)["choices"][0]
        text, loops = text + choice["text"], loops + choice["loops"]
    if lines[-1] == "[DONE]":
        return text, loops, None
    return text, loops, str(json.loads(lines[-1])["error"]["code"])


def together(url: str, bodies: list[dict[str, Any]], meanwhile: Any = None) -> list[Any]:
    found: list[Any] = [None] * len(bodies)

    def ask(place: int) -> None:
        found[place] = streamed(url, bodies[place])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(bodies))]
    for thread in threads:
        thread.start()
    if meanwhile is not None:
        meanwhile()
    for thread in threads:
        thread.join(120)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_replica_that_is_killed_takes_only_its_answers_with_it(served: Any) -> None:
    model, server = served
    sizes = EngineConfig(blocks=64, block_size=8, rows=4, chunk=32)
    alone = Engine(model, ByteTokenizer(), sizes)
    bodies = [
        {"prompt": random.choice("abcdef") * random.randint(1, 20), "max_tokens": 64, "seed": i,
         "num_loops": random.randint(1, 4), "ignore_eos": True}
        for i in range(16)
    ]  # fmt: skip
    expected = []
    for body in bodies:
        sampling = SamplingParams(max_tokens=64, seed=body["seed"], ignore_eos=True)
        prompt = ByteTokenizer().encode(body["prompt"])
        [[one]] = alone.complete([Request(prompt, sampling, body["num_loops"])])
        expected.append((one.text, list(one.loops), None))
    assert together(server.url, bodies) == expected

    first = server.replicas()
    assert len(first) == 2
    victim = min(first)

    def kill() -> None:
        server.wait(lambda: "in_flight 16.0" in httpx.get(f"{server.url}/metrics").text)
        os.kill(victim, signal.SIGKILL)

    found = together(server.url, bodies, kill)
    lost = [one for one in found if one[2] is not None]
    assert 0 < len(lost) < len(bodies)  # both had some
    for one, whole in zip(found, expected, strict=True):
        if one[2] is None:
            assert one == whole
        else:
            assert one[2] == "replica_lost"
            assert whole[0].startswith(one[0].rstrip("\ufffd"))
            assert one[1] == whole[1][: len(one[1])]

    server.wait(lambda: server.running == 2 and len(server.replicas() - {victim}) == 2)
    assert together(server.url, bodies) == expected
    below: dict[int, str] = {}

    def end() -> None:
        server.wait(lambda: "in_flight 16.0" in httpx.get(f"{server.url}/metrics").text)
        below.update(server.ours())
        server.process.send_signal(signal.SIGTERM)

    assert together(server.url, bodies, end) == expected
    assert server.process.wait(60) == 0
    assert len(below) > 4
    late = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in below):
        assert time.monotonic() < late, [n for p, n in below.items() if Path(f"/proc/{p}").exists()]
        time.sleep(0.1)
    assert all(line.startswith("{") for line in server.lines), server.lines
