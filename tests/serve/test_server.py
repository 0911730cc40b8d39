"""The process: a locked door, and an end at which all that was accepted is answered."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.tokenizer import save_tokenizer
from open_mythos.errors import ConfigError
from open_mythos.serve.server import build_server


ROOT = Path(__file__).resolve().parents[2]
COMPLETIONS = "/v1/completions"


def test_a_public_address_needs_a_key(build_service: Any) -> None:
    with pytest.raises(ConfigError, match="--public"):
        build_server(build_service(host="0.0.0.0"))
    build_server(build_service(host="0.0.0.0", keys={"a": "x" * 20}))
    build_server(build_service(host="0.0.0.0", public=True))


def test_a_second_signal_ends_at_once(build_service: Any) -> None:
    service = build_service()
    server = build_server(service)
    server.handle_exit(signal.SIGTERM, None)
    assert (server.should_exit, server.force_exit, service.state) == (True, False, "ending")
    server.handle_exit(signal.SIGTERM, None)
    assert server.force_exit


def test_a_server_that_ends_answers_whom_it_accepted(
    build_service: Any, listening: Any, post: Any
) -> None:
    service = build_service()
    found: list[Any] = []
    body = {"model": "tiny", "prompt": "a", "max_tokens": 60, "n": 8, "ignore_eos": True}
    with listening(service) as url:
        thread = threading.Thread(
            target=lambda: found.append(httpx.post(url + COMPLETIONS, json=body, timeout=60))
        )
        thread.start()
        end = time.monotonic() + 30
        while not service.front.engine.counters.tokens and time.monotonic() < end:
            time.sleep(0.005)
    thread.join(60)
    assert found[0].status_code == 200
    assert found[0].json()["usage"]["completion_tokens"] == 8 * 60


@pytest.mark.slow
def test_sigterm_under_load_finishes_accepted_work_and_exits_with_0(
    build_model: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    build_model().save_pretrained(folder)
    save_tokenizer(ByteTokenizer(), folder)
    command = [sys.executable, "-m", "open_mythos", "serve", str(folder), "--port", "0",
               "--device", "cpu", "engine.rows=8"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("OPEN_MYTHOS_API_KEYS", None)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        lines: list[dict[str, Any]] = []
        for text in process.stderr:
            lines.append(json.loads(text))
            if "running on" in lines[-1]["event"]:
                break
        url = lines[-1]["event"].split()[3]
        rest = threading.Thread(target=lambda: lines.extend(map(json.loads, process.stderr or ())))
        rest.start()
        told: list[int] = []

        def ask(i: int) -> None:
            body = {"model": "tiny", "prompt": "a", "max_tokens": 60, "seed": i, "n": 6}
            body |= {"ignore_eos": True, "stream": True}
            with httpx.stream("POST", url + COMPLETIONS, json=body, timeout=60) as answer:
                text = "".join(answer.iter_text())
            assert text.endswith("data: [DONE]\n\n")
            told.append(text.count("data: {"))

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if "in_flight 12.0" in httpx.get(f"{url}/metrics").text:
                break
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert process.wait(60) == 0
        rest.join(10)
        assert told == [6 * 60] * 12
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
