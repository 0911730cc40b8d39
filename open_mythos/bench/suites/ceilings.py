"""What the device does at best: a large copy, large matrix products."""

from collections.abc import Iterator

import torch

from open_mythos.bench.clock import MS, Clock
from open_mythos.bench.floor import Ceilings
from open_mythos.bench.record import Figure
from open_mythos.bench.suite import Case, Found, Setting
from open_mythos.errors import InputError


COPY = "copy"
PRODUCT = "product"


def cases(setting: Setting) -> list[Case]:
    """Copy, a large square product, and the products that the size is made of."""
    return [Case("ceilings", "torch", lambda: measure(setting), seconds=3)]


def measure(setting: Setting) -> Iterator[Found]:
    """The copy first, then products from the largest."""
    clock, big = setting.clock, setting.device.type != "cpu"
    yield copy(clock, setting.device, 2**31 if big else 2**26)
    cfg, rows = setting.size.model, setting.size.batch * setting.size.seq_len
    side = 8192 if big else 1024
    widths = {PRODUCT: (side, side, side)}
    shared = cfg.shared_width * max(cfg.n_shared_experts, 1)
    for name, n in (("dense up", 2 * cfg.dense_width), ("shared up", 2 * shared)):
        widths[name] = (rows, cfg.dim, n)
    widths["head"] = (rows, cfg.dim, cfg.vocab_size)
    for name, shape in widths.items():
        yield product(clock, name, shape, setting.dtype)


def copy(clock: Clock, device: torch.device, count: int) -> Found:
    """Bytes read and written per second by one large copy."""
    source = torch.randint(0, 256, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timing = clock.time(lambda: target.copy_(source), repeat=20, cap=0.5)
    rate = Figure(2 * count * MS / timing.median / 1e12, "TB/s")
    figures = {"step": timing.figure(), "bandwidth": rate}
    return Found(case=COPY, who="torch", figures=figures, shape={"bytes": count})


def product(clock: Clock, name: str, shape: tuple[int, int, int], dtype: torch.dtype) -> Found:
    """FLOP/s of one (m, k) by (k, n) product of random matrices."""
    m, k, n = shape
    a = torch.randn(m, k, device=clock.device, dtype=dtype)
    b = torch.randn(k, n, device=clock.device, dtype=dtype)
    timing = clock.time(lambda: a @ b, repeat=20, cap=0.5)
    rate = Figure(2 * m * k * n * MS / timing.median / 1e12, "TFLOP/s")
    figures = {"step": timing.figure(), "tflops": rate}
    return Found(case=name, who="torch", figures=figures, shape={"m": m, "k": k, "n": n})


def ceilings(found: list[Found]) -> Ceilings:
    """The copy's bandwidth and the best product's rate.

    Raises:
        InputError: If there is no product or no copy among them.
    """
    moved = [f.figures["bandwidth"].value for f in found if "bandwidth" in f.figures]
    computed = [f.figures["tflops"].value for f in found if "tflops" in f.figures]
    if not moved or not computed:
        raise InputError("the ceilings need a copy and a product; measure the ceilings whole")
    return Ceilings(flops=max(computed) * 1e12, bandwidth=max(moved) * 1e12)
