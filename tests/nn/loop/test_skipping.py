"""What may be left out, and when it pays; that it changes nothing is in tests/laws."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from open_mythos.config.budget import flops_per_token
from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.loop.exiting import Leave
from open_mythos.nn.loop.exits.registry import exit_named
from open_mythos.nn.loop.recurrent import RecurrentBlock
from open_mythos.nn.loop.skipping import COST, LEAST, MOST, asks, open_skipping, pays
from open_mythos.nn.rotary import rotary


Config = Callable[..., MythosConfig]


def open_one(
    cfg: MythosConfig, skip: bool | None, *, text: str | None = None, positions: int = 6, **how: Any
) -> Any:
    loop = RecurrentBlock(cfg).eval()
    loop.skip = skip
    leave = None if text is None else Leave(exit_named(text), lambda h: h)
    h = torch.zeros(1, 1, cfg.dim).expand(2, positions, cfg.dim)
    context = AttentionContext(rotary(torch.arange(6), cfg.rope_dim, 100.0))
    return open_skipping(loop, h, context, leave, **{"observed": True, **how})


def test_fewer_positions_pay_where_more_do() -> None:
    for device in COST:
        each, whole = COST[device] / 40, 100
        paid = [pays(active, whole, each, device) for active in range(whole + 1)]
        assert paid == sorted(paid, reverse=True)
        assert paid[0]
        assert not paid[whole]
        assert paid[60]
        assert not paid[61]
        assert not pays(int(MOST * whole) + 1, whole, each * 1000, device)
        assert pays(int(MOST * whole), whole, each * 1000, device)


def test_nobody_asks_where_not_even_everybody_leaving_would_pay() -> None:
    for device in COST:
        assert LEAST[device] >= COST[device]
        assert asks(100, LEAST[device] / 100, device)
        assert not asks(99, LEAST[device] / 100, device)
    assert asks(1, LEAST["cuda"], "elsewhere")


@pytest.mark.parametrize("kv", ["per_loop", "first", "last"])
@pytest.mark.parametrize("text", [None, "latent"])
def test_who_may_leave(kv: str, text: str | None, halted: str, tiny_config: Config) -> None:
    for readout in ("act", "last"):
        cfg = tiny_config(kv=kv, halted=halted, readout=readout)
        halts = readout == "act" or text is not None
        for observed in (True, False):
            unseen = halted == "freeze" or (kv == "first" and not observed)
            found = open_one(cfg, True, text=text, observed=observed)
            assert found.leaves == (halts and unseen)
            assert not open_one(cfg, False, text=text, observed=observed).leaves
            assert found.stops == halts  # nothing is cached


def test_nobody_is_asked_where_nothing_can_pay(tiny_config: Config) -> None:
    cfg = tiny_config(halted="freeze")
    each = flops_per_token(cfg, 1, 1).loops
    enough = int(LEAST["cpu"] / each / 2) + 1
    assert not open_one(cfg, None, positions=enough - 1).leaves
    assert open_one(cfg, None, positions=enough).leaves
    assert open_one(cfg, True, positions=1).leaves


def test_it_is_counted_only_where_somebody_asks(tiny_config: Config) -> None:
    cfg = tiny_config()
    assert open_one(cfg, None, observed=False).work([2, 2], 6) is None
    assert open_one(cfg, None, observed=True).tally is not None
