"""Cluster: replicas as Ray Serve runs them, on this machine or on many, and begins them anew."""

import asyncio
import logging
import os
import re
import socket
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from open_mythos.errors import BusyError, ConfigError, LostError, MissingExtraError
from open_mythos.serve.journal import to_stream
from open_mythos.serve.relay import TIMEOUT
from open_mythos.serve.replica import Call, Part, Plan, Replica, Report


TRIES = 4  # replicas that a call which none has begun is offered to
REACHED = 10.0  # seconds in which a cluster must be found at its address
ACCEPTED = 30.0  # seconds in which a replica must have taken a call
HEALTH_PERIOD, HEALTH_TIMEOUT = 2.0, 30.0  # seconds
STORE = 128 << 20  # bytes of shared memory: answers are small and travel without it
POLL = 0.2  # seconds between two looks at replicas that start
DEPLOYMENT = "Replica"


@dataclass(frozen=True)
class ReplicaConfig:
    """Replicas of one model.

    Attributes:
        count: How many; 0 serves in this process, without Ray.
        address: Of a Ray cluster, "auto" for the one of this machine; None starts one here.
        cpus: Cores of each; None shares out this machine's, and takes one in a cluster.
        gpus: GPUs of each, 0.5 for two on one; None takes one where there are any.
        start_seconds: Most time until all run.
    """

    count: int = 0
    address: str | None = None
    cpus: float | None = None
    gpus: float | None = None
    start_seconds: float = 600.0

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 0:
            raise ConfigError(f"replicas.count is {self.count!r}; it must be an int of at least 0")
        for name in ("cpus", "gpus"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"replicas.{name} is {value!r}; it must be at least 0")
        if not self.start_seconds > 0:
            raise ConfigError(
                f"replicas.start_seconds is {self.start_seconds!r}; it must be above 0"
            )
        if self.address is not None and not self.count:
            raise ConfigError(
                f"replicas.address is {self.address!r}, but replicas.count is 0; say --replicas N"
            )


class Worker(Replica):
    """A replica in a process of its own."""

    def __init__(self, plan: Plan) -> None:
        """Settle in the process, then as `Replica`."""
        to_stream(level=logging.ERROR)  # requests are logged at the door
        if plan.threads is not None:
            torch.set_num_threads(plan.threads)
        torch.seed()  # requests without a seed would draw the same in every replica
        super().__init__(plan)


class RayReplicas:
    """Replicas behind a handle of Ray Serve, which picks the one with the fewest calls."""

    def __init__(self, handle: Any) -> None:
        """Of a deployment of `Replica`."""
        self._handle, self._stream = handle, handle.options(stream=True)

    async def ask(self, call: Call) -> AsyncGenerator[Part, None]:
        """One of them answers; a call that none has begun goes to another.

        Raises:
            BusyError: If none takes it.
            LostError: If the one that had it is gone.
            RuntimeError: If its answer broke off.
        """
        answer, ended = await self._taken(call), False
        try:
            while not ended and (part := await _next(answer)) is not None:
                ended = part.last
                yield part
        finally:
            if not ended:
                answer.cancel()

    async def _taken(self, call: Call) -> Any:
        """An answer whose first part, which says that the call has arrived, has come."""
        for _ in range(TRIES):
            answer = self._stream.answer.remote(call)
            try:
                async with asyncio.timeout(ACCEPTED):
                    await _next(answer)
            except LostError:
                continue
            except TimeoutError:
                answer.cancel()
                raise BusyError(f"no replica took the request in {ACCEPTED:g} s") from None
            except BaseException:
                answer.cancel()
                raise
            return answer
        raise BusyError(f"{TRIES} replicas were gone before they took the request")

    async def reports(self) -> Sequence[Report]:
        """How each is, of those that run.

        Raises:
            TimeoutError: If not all say so in time.
        """
        asked = self._handle.broadcast("report")
        found = await asked.results_async(timeout_s=TIMEOUT, return_exceptions=True)
        return [one for one in found if isinstance(one, Report)]


async def _next(answer: Any) -> Part | None:
    """The next part; None behind the last. Ray's errors as ours."""
    from ray.exceptions import RayActorError, RayError  # noqa: PLC0415 -- an extra
    from ray.serve.exceptions import RayServeException  # noqa: PLC0415 -- an extra

    try:
        part: Part = await anext(answer)
    except StopAsyncIteration:
        return None
    except RayActorError as error:
        raise LostError(str(error).strip().split("\n", 1)[0]) from error
    except RayServeException as error:
        raise BusyError("no replica takes requests now") from error
    except RayError as error:
        raise RuntimeError("a replica failed") from error
    return part


@contextmanager
def ray_replicas(plan: Plan, settings: ReplicaConfig) -> Iterator[RayReplicas]:
    """Replicas that run; at the end they are gone.

    Raises:
        MissingExtraError: Without Ray Serve.
        ConfigError: If there is no such cluster, it has too little, or the replicas do not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to its makers
    if settings.address is None:  # a cluster has its own rule on who may command it
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray  # noqa: PLC0415 -- an extra
        from ray import serve  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "open-mythos serve --replicas") from error
    own = {"address": "local", "include_dashboard": False, "object_store_memory": STORE}
    told: dict[str, Any] = own if settings.address is None else {"address": settings.address}
    _require_there(settings.address)
    try:
        ray.init(log_to_driver=False, logging_level="error", **told)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"no Ray cluster at {settings.address!r}: {_last(str(error))}") from error
    name = re.sub(r"[^\w.-]", "-", f"open-mythos-{plan.name}")
    try:
        to_stream(level=logging.WARNING, names=("ray", "ray.serve"))
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        to_stream(level=logging.WARNING, names=("ray", "ray.serve"))  # it has set its own
        yield RayReplicas(_deployed(name, plan, share(settings, plan, ray.cluster_resources())))
    finally:
        if settings.address is not None:  # the cluster is others' too
            serve.delete(name)
        ray.shutdown()


def _require_there(address: str | None) -> None:
    """Ray itself tries for minutes to reach an address at which nobody is."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit() or "://" in host:
        return
    try:
        socket.create_connection((host, int(port)), REACHED).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster at {address!r}: {error}") from error


def share(settings: ReplicaConfig, plan: Plan, there: dict[str, float]) -> ReplicaConfig:
    """Settings with what each replica gets.

    Args:
        settings: As they were given.
        plan: With the device.
        there: Resources of the cluster, as Ray counts them.

    Raises:
        ConfigError: If this machine has not enough of them, or one GPU was meant for all.
    """
    if plan.device.startswith("cuda:"):
        raise ConfigError(f"device is {plan.device!r}, but Ray deals out the GPUs; say cuda")
    cpus, gpus = settings.cpus, settings.gpus
    if gpus is None:
        wanted = plan.device == "cuda" or (plan.device == "auto" and there.get("GPU", 0) > 0)
        gpus = 1.0 if wanted else 0.0
    if cpus is None:
        even = there.get("CPU", 1.0) / settings.count
        cpus = 1.0 if settings.address is not None else float(int(even)) or even
    if settings.address is None:  # a cluster may grow
        for kind, each in (("CPU", cpus), ("GPU", gpus)):
            if each * settings.count > there.get(kind, 0.0) + 1e-6:
                raise ConfigError(
                    f"{settings.count} replicas with {each:g} {kind} each need more than the "
                    f"{there.get(kind, 0.0):g} of this machine; lower replicas.count or "
                    f"replicas.{kind.lower()}s"
                )
    return replace(settings, cpus=cpus, gpus=gpus)


def _deployed(name: str, plan: Plan, settings: ReplicaConfig) -> Any:
    """A handle to replicas that all run."""
    from ray import serve  # noqa: PLC0415 -- an extra

    bounds = plan.settings
    kind = serve.deployment(
        Worker,
        name=DEPLOYMENT,
        num_replicas=settings.count,
        max_ongoing_requests=2 * bounds.in_flight + 16,  # who is let in is the door's business
        health_check_period_s=HEALTH_PERIOD,
        health_check_timeout_s=HEALTH_TIMEOUT,
        max_constructor_retry_count=2,  # of the first start; who ran once is begun anew for ever
        graceful_shutdown_timeout_s=bounds.patience,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
    )
    whole = replace(plan, threads=max(int(settings.cpus or 0), 1))
    target = serve.RunTarget(target=kind.bind(whole), name=name, route_prefix=None)
    [handle] = serve.run_many([target], wait_for_applications_running=False)
    end = time.monotonic() + settings.start_seconds
    while True:
        found = serve.status().applications[name]
        if found.status == "RUNNING":
            return handle
        if found.status == "DEPLOY_FAILED":
            raise ConfigError(f"the replicas do not start: {_last(found.message)}")
        if time.monotonic() > end:
            raise ConfigError(
                f"not all of {settings.count} replicas run after {settings.start_seconds:g} s; has "
                f"the cluster {settings.cpus:g} CPUs and {settings.gpus:g} GPUs for each? "
                "Raise replicas.start_seconds if they only need longer"
            )
        time.sleep(POLL)


def _last(message: str) -> str:
    """What a traceback ends in."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"
