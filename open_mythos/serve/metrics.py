"""Metrics: what Prometheus reads of a server and of the engine behind it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from open_mythos.engine.counters import Stats
from open_mythos.serve.record import Record


MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
# Names of paths that a label may have: strangers choose paths, and each label costs memory.
ROUTES = frozenset(
    ("/", "/health", "/ready", "/metrics", "/openapi.json", "/v1/models", "/v1/completions",
     "/v1/chat/completions", "/v1/inspect")
)  # fmt: skip
METHODS = frozenset(("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"))
GAUGES = {
    "waiting": "Continuations that have no row.",
    "running": "Continuations that have a row.",
    "lanes": "Positions in the network.",
    "blocks": "Blocks of the cache.",
    "used": "Blocks that somebody owns.",
    "idle": "Blocks kept for prompts that begin alike.",
    "reused": "Positions found in the cache so far.",
    "preemptions": "How often a continuation made room so far.",
    "evictions": "Idle blocks given up so far.",
}


class Metrics:
    """Of one server, in a registry of its own."""

    def __init__(self) -> None:
        """All at nothing."""
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "open_mythos_requests", "Requests that have ended.", ["method", "route", "status"],
            registry=self.registry,
        )  # fmt: skip
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self._tokens = self._counter("tokens", "Tokens written.")
        self._loops = self._counter("loops", "Loops of the positions that said them.")
        self._gone = self._counter("gone", "Requests whose client left before the end.")
        self._first = Histogram(
            "open_mythos_first_token_seconds", "Time to the first token.",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "open_mythos_request_seconds", "Time of requests that wrote tokens.",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._in_flight = self._gauge("in_flight", "Requests that are being answered.")
        self._replicas = self._gauge("replicas", "Engines that answer; their numbers are added.")
        self._engine = {name: self._gauge(f"engine_{name}", text) for name, text in GAUGES.items()}

    def ended(self, record: Record) -> None:
        """Count a request."""
        path = record.path if record.path in ROUTES else "other"
        method = record.method if record.method in METHODS else "other"
        self._requests.labels(method, path, str(record.status)).inc()
        self._prompt_tokens.inc(record.prompt_tokens)
        self._tokens.inc(record.tokens)
        self._loops.inc(record.loops)
        self._gone.inc(record.gone)
        if record.first is not None:
            self._first.observe(record.first)
            self._seconds.observe(record.seconds)

    def text(self, stats: Stats, in_flight: int, replicas: int = 1) -> bytes:
        """All of it in Prometheus' text form."""
        self._in_flight.set(in_flight)
        self._replicas.set(replicas)
        for name, gauge in self._engine.items():
            gauge.set(getattr(stats, name))
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"open_mythos_{name}", text, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"open_mythos_{name}", text, registry=self.registry)
