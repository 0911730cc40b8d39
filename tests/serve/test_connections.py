"""Connections that say nothing, or too little, take nothing from those that speak."""

import asyncio
import socket
import time
from typing import Any

import httpx
import pytest

from open_mythos.serve import connections


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def closed(connection: socket.socket) -> bool:
    """Whether the other side has ended it, by now or within the socket's time."""
    try:
        return connection.recv(1000) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_who_says_nothing_is_cut_off(build_service: Any, listening: Any) -> None:
    service = build_service(idle_seconds=0.3)
    with listening(service) as url:
        silent, trickling = connect(url), connect(url)
        began = time.monotonic()
        for byte in b"GET /health HTTP/1.1\r\nHost: a" * 3:
            try:
                trickling.sendall(bytes([byte]))
            except ConnectionError:
                break
            time.sleep(0.02)
            if time.monotonic() - began > 1.5:
                break
        assert closed(silent)
        assert closed(trickling)
        silent.close()
        trickling.close()


def test_a_crowd_that_speaks_is_heard(
    build_service: Any, listening: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "GRACE", 25.0)  # for as long as the crowd may take to speak

    async def crowd(url: str) -> list[int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30) as client:
            found = await asyncio.gather(*(client.get("/health") for _ in range(60)))
        return [one.status_code for one in found]

    with listening(build_service(half_open=5, idle_seconds=30.0)) as url:
        assert asyncio.run(crowd(url)) == [200] * 60


def test_the_oldest_silent_ones_give_way(
    build_service: Any, listening: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "GRACE", 0.0)
    service = build_service(half_open=5, idle_seconds=30.0)
    with listening(service) as url:
        silent = [connect(url) for _ in range(40)]
        assert httpx.get(f"{url}/health").status_code == 200
        ended = 0
        for one in silent[:30]:
            one.settimeout(20)
            ended += closed(one)
        assert ended == 30
        silent[-1].settimeout(0.1)
        assert not closed(silent[-1])
        for one in silent:
            one.close()


def test_too_many_connections_get_a_503(build_service: Any, listening: Any) -> None:
    service = build_service(connections=3, idle_seconds=30.0)
    with listening(service) as url:
        first = [connect(url) for _ in range(3)]
        time.sleep(0.2)
        late = connect(url)
        told = late.recv(1000)
        assert told.startswith(b"HTTP/1.1 503")
        assert b"retry-after" in told
        for one in (*first, late):
            one.close()


def test_a_connection_serves_many_requests(build_service: Any, listening: Any) -> None:
    service = build_service(idle_seconds=2.0)
    with listening(service) as url, httpx.Client(base_url=url) as client:
        ends = set()
        for pause in (0.0, 0.7, 0.7, 0.7):  # together longer than idle_seconds
            time.sleep(pause)
            answer = client.get("/health")
            assert answer.status_code == 200
            ends.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
    assert len(ends) == 1


def test_what_is_no_http_ends_alone(build_service: Any, listening: Any) -> None:
    with listening(build_service()) as url:
        for raw in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"A" * 200_000 + b"\r\n"):
            connection = connect(url)
            try:
                connection.sendall(raw)
                found = connection.recv(100)
            except ConnectionError:
                found = b""
            assert found[:12] in (b"", b"HTTP/1.1 400")
            connection.close()
        assert httpx.get(f"{url}/ready").status_code == 200
