"""Cache first, hub only if one answers, and a clear error otherwise; no network is used."""

import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from open_mythos.data import hub
from open_mythos.data.hub import (
    cached_tokenizer,
    folder_tokenizer,
    hub_answers,
    hub_tokenizer,
)
from open_mythos.errors import InputError, MissingExtraError


class FakeHub:
    """Stands for `transformers`: knows which ids are cached and which the hub has."""

    def __init__(self, cached: tuple[str, ...] = (), hosted: tuple[str, ...] = ()) -> None:
        self.cached, self.hosted = cached, hosted
        self.calls: list[tuple[str, bool]] = []
        self.AutoTokenizer = SimpleNamespace(from_pretrained=self.from_pretrained)

    def from_pretrained(self, name: str, local_files_only: bool = False) -> str:
        self.calls.append((name, local_files_only))
        if name in self.cached or (name in self.hosted and not local_files_only):
            return f"tokenizer of {name}"
        raise OSError(f"{name} is nowhere\nand a second line")


class Answering(BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def no_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*hub.OFFLINE_SWITCHES, "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address of this machine at which nothing listens; held, so that nobody else will."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def open_port(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web server that answers HEAD with the status of the test's parameter, or 200."""
    monkeypatch.setattr(hub_answers, "__defaults__", (60.0,))  # a busy machine may stall it
    handler = type("Handler", (Answering,), {"status": getattr(request, "param", 200)})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def install(monkeypatch: pytest.MonkeyPatch, fake: FakeHub | None) -> None:
    monkeypatch.setitem(sys.modules, "transformers", fake)


def test_a_cached_id_needs_no_hub(monkeypatch: pytest.MonkeyPatch, closed_port: str) -> None:
    fake = FakeHub(cached=("a/b",))
    install(monkeypatch, fake)
    monkeypatch.setenv("HF_ENDPOINT", closed_port)
    assert hub_tokenizer("a/b") == "tokenizer of a/b"
    assert fake.calls == [("a/b", True)]


def test_without_a_hub_nothing_is_asked_of_it(
    monkeypatch: pytest.MonkeyPatch, closed_port: str
) -> None:
    fake = FakeHub(hosted=("a/b",))
    install(monkeypatch, fake)
    monkeypatch.setenv("HF_ENDPOINT", closed_port)
    with pytest.raises(InputError, match=f"'a/b'.*no hub answered at {closed_port}.*'byte'"):
        hub_tokenizer("a/b")
    assert fake.calls == [("a/b", True)]


@pytest.mark.parametrize("switch", hub.OFFLINE_SWITCHES)
@pytest.mark.parametrize("value", ["1", "true", "Yes"])
def test_the_offline_switches_are_obeyed(
    monkeypatch: pytest.MonkeyPatch, open_port: str, switch: str, value: str
) -> None:
    fake = FakeHub(hosted=("a/b",))
    install(monkeypatch, fake)
    monkeypatch.setenv("HF_ENDPOINT", open_port)
    monkeypatch.setenv(switch, value)
    with pytest.raises(InputError, match=f"{switch} forbids a download.*'plays'"):
        hub_tokenizer("a/b")
    assert fake.calls == [("a/b", True)]


def test_a_hub_that_answers_is_asked(monkeypatch: pytest.MonkeyPatch, open_port: str) -> None:
    fake = FakeHub(hosted=("a/b",))
    install(monkeypatch, fake)
    monkeypatch.setenv("HF_ENDPOINT", open_port)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert hub_tokenizer("a/b") == "tokenizer of a/b"
    assert fake.calls == [("a/b", True), ("a/b", False)]
    with pytest.raises(InputError, match=r"no tokenizer for 'a/c' \(a/c is nowhere\); check"):
        hub_tokenizer("a/c")


@pytest.mark.parametrize(
    ("open_port", "answers"),
    [(200, True), (401, True), (404, True), (503, False)],
    indirect=["open_port"],
)
def test_any_answer_but_a_failing_server_counts(open_port: str, answers: bool) -> None:
    assert hub_answers(open_port) is answers


def test_a_server_that_accepts_and_stays_silent_does_not_answer() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert not hub_answers(f"http://127.0.0.1:{silent.getsockname()[1]}", patience_s=0.2)


def test_a_name_lookup_that_hangs_does_not_hang_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = threading.Event()

    def hanging(*args: Any, **kwargs: Any) -> list[Any]:
        release.wait(60)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    try:
        # Returns while the lookup is still held: only `release` would end it.
        assert not hub_answers("http://hub.invalid", patience_s=0.2)
        assert not release.is_set()
    finally:
        release.set()


def test_an_endpoint_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeHub())
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    with pytest.raises(InputError, match="must begin with http"):
        hub_tokenizer("a/b")


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    with pytest.raises(MissingExtraError, match=r"'a/b'.*'plays'.*open-mythos\[hf\]"):
        hub_tokenizer("a/b")
    with pytest.raises(MissingExtraError, match=r"'some/folder'.*open-mythos\[hf\]"):
        folder_tokenizer("some/folder")


def test_what_is_not_in_the_cache_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHub(cached=("a/b",), hosted=("a/c",))
    install(monkeypatch, fake)
    assert cached_tokenizer("a/b") == "tokenizer of a/b"
    assert cached_tokenizer("a/c") is None
    assert all(local for _, local in fake.calls)
    install(monkeypatch, None)
    assert cached_tokenizer("a/b") is None


def test_a_folder_is_never_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHub(cached=("here",))
    install(monkeypatch, fake)
    assert folder_tokenizer("here") == "tokenizer of here"
    with pytest.raises(InputError, match="no tokenizer in 'there': there is nowhere"):
        folder_tokenizer("there")
    assert all(local for _, local in fake.calls)
