"""ServeConfig: where a server listens, and what it lets anybody have of it, checked when made."""

from dataclasses import dataclass
from ipaddress import ip_address

from open_mythos.errors import ConfigError


LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")


@dataclass(frozen=True)
class ServeConfig:
    """Bounds of a server; sizes of the engine behind it are `EngineConfig`'s.

    Attributes:
        host: Address to listen on; beyond this machine only with a key, or with `public`.
        port: Port; 0 takes a free one.
        public: Whether strangers may come in without a key.
        body_bytes: Most bytes of a request's body.
        schema_bytes: Most bytes of a JSON schema.
        inspect_tokens: Most tokens of a text that is looked into (/v1/inspect): one pass, for which
            all others wait.
        prompts: Most prompts of one request.
        choices: Most continuations of one request, over all its prompts.
        in_flight: Most requests that are answered at once; more get a 503.
        key_in_flight: The same for one key (without keys, one address); more get a 429.
        key_per_minute: Requests that a key may begin in a minute; more get a 429.
        connections: Most open connections.
        half_open: Connections that may wait for a request when others come; more give way.
        seconds: Most time for an answer.
        body_seconds: Most time for a request's body to arrive.
        idle_seconds: Most time for a request's head to arrive, and between two requests.
        drain_seconds: Most time for accepted work after SIGTERM; None: `seconds`.
        log_prompts: Whether the log shows what was asked.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    public: bool = False
    body_bytes: int = 2 << 20
    schema_bytes: int = 64 << 10
    inspect_tokens: int = 512
    prompts: int = 64
    choices: int = 128
    in_flight: int = 512
    key_in_flight: int | None = None
    key_per_minute: int | None = None
    connections: int = 2048
    half_open: int = 256
    seconds: float = 300.0
    body_seconds: float = 30.0
    idle_seconds: float = 15.0
    drain_seconds: float | None = None
    log_prompts: bool = False

    def __post_init__(self) -> None:
        for name in ("body_bytes", "schema_bytes", "prompts", "choices", "in_flight"):
            self._require_count(name)
        for name in ("connections", "half_open", "inspect_tokens"):
            self._require_count(name)
        for name in ("key_in_flight", "key_per_minute"):
            if getattr(self, name) is not None:
                self._require_count(name)
        for name in ("seconds", "body_seconds", "idle_seconds", "drain_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"serve.{name} is {value!r}; it must be seconds above 0")
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"serve.port is {self.port}; it must lie in 0 .. 65535")

    def _require_count(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"serve.{name} is {value!r}; it must be an int of at least 1")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def patience(self) -> float:
        """Seconds for accepted work after SIGTERM."""
        return self.seconds if self.drain_seconds is None else self.drain_seconds

    def require_safe(self, keyed: bool) -> None:
        """Refuse to open a door without a lock.

        Raises:
            ConfigError: If others could reach the server, no key is set and nobody wanted that.
        """
        if not (self.loopback or keyed or self.public):
            raise ConfigError(
                f"serve.host is {self.host!r}, which other machines can reach, and there is no API "
                "key; set one (--keys FILE, or OPEN_MYTHOS_API_KEYS), listen on 127.0.0.1, or say "
                "--public if anybody may use it"
            )
