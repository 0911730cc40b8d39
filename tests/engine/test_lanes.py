"""Lanes: rows at unequal loops, kept apart and together, against accounts of one row each."""

from typing import Any

import pytest
import torch

from open_mythos.engine.lanes import START, Accounts, Lanes, Party, counted
from open_mythos.nn.loop.exiting import Leave, open_account
from open_mythos.nn.loop.exits.registry import EXITS, exit_named


WIDE = torch.float64


def predict(h: torch.Tensor) -> torch.Tensor:
    return (torch.cat([h, h.square(), -h], dim=-1)[..., :37] * 2).log_softmax(-1)


RULES = [
    None,
    "latent:0.8",
    "settled:1.1",
    "acceleration:1.2",
    "kl:0.3",
    "entropy:3.2",
    "stability:1",
]


@torch.no_grad()
@pytest.mark.parametrize("rule", [*RULES, "act:0.9", "gate:0.7"])
def test_rows_at_unequal_loops_are_as_each_alone(
    tiny_config: Any, readout: str, rule: str | None
) -> None:
    cfg = tiny_config(readout=readout)
    leave = None if rule is None else Leave(exit_named(rule), predict)
    lanes = Lanes(cfg, 5, cfg.dim, torch.empty(0, dtype=WIDE))
    states, ps = torch.randn(4, 6, cfg.dim, dtype=WIDE), torch.rand(4, 6, dtype=WIDE) / 2
    states = states * torch.linspace(1, 0.3, 6).unsqueeze(-1)
    starts, ends = [0, 1, 1, 3], [4, 3, 5, 2]  # the step in which a row enters, and its loops
    alone = []
    for row in range(4):
        account = open_account(cfg, states[row, 0].view(1, 1, -1), leave)
        for t in range(ends[row]):
            h, p = states[row, t + 1].view(1, 1, -1), ps[row, t].view(1, 1)
            account, _ = account.step(h, p, last=t + 1 == ends[row])
            halted = account.halted
            if halted is not None and bool(halted.all()):
                break
        alone.append((t + 1, account.value.flatten()))
    found: dict[int, tuple[int, torch.Tensor]] = {}
    for step in range(8):
        entering = [row for row in range(4) if starts[row] == step]
        if entering:
            h = states[entering, 0].unsqueeze(1)
            angles = torch.zeros(len(entering), 1, cfg.rope_dim // 2)
            lanes.open(torch.tensor(entering), h=h, e=h, cos=angles, sin=angles)
        going = [row for row in range(4) if starts[row] <= step and row not in found]
        if not going:
            continue
        index, ts = torch.tensor(going), [step - starts[row] for row in going]
        before = lanes.take("h", index)
        h = torch.stack([states[row, t + 1] for row, t in zip(going, ts, strict=True)])
        p = torch.stack([ps[row, t] for row, t in zip(going, ts, strict=True)])
        last = torch.tensor([[t + 1 == ends[row]] for row, t in zip(going, ts, strict=True)])
        left = torch.zeros_like(last)
        given = Accounts(
            lanes, index, [Party(leave, 1)], before, True, torch.empty_like(before), left
        )
        told, _ = given.step(h.unsqueeze(1), p.unsqueeze(1), last=last)
        lanes.put("h", index, h.unsqueeze(1))
        for i, row in enumerate(going):
            if told.left[i] or last[i]:
                found[row] = (ts[i] + 1, told.value[i].flatten())
    for row in range(4):
        assert found[row][0] == alone[row][0]
        assert torch.allclose(found[row][1], alone[row][1], atol=1e-12)


@torch.no_grad()
def test_parties_are_kept_apart(tiny_config: Any) -> None:
    cfg = tiny_config(readout="last")
    lanes = Lanes(cfg, 4, cfg.dim, torch.empty(0, dtype=WIDE))
    h = torch.randn(3, 1, cfg.dim, dtype=WIDE)
    index = torch.tensor([2, 0, 3])
    loose, strict = (Leave(exit_named(name), predict) for name in ("latent:1e9", "latent:1e-9"))
    parties = [
        Party(loose, 1, torch.tensor([1])),
        Party(strict, 1, torch.tensor([2])),
        Party(None, 0, torch.tensor([0])),
    ]
    last = torch.zeros(3, 1, dtype=torch.bool)
    given = Accounts(lanes, index, parties, h, False, torch.empty_like(h), last)
    told, _ = given.step(h + torch.randn_like(h), None, last=last)
    assert told.left.flatten().tolist() == [False, True, False]


def test_every_exit_of_the_registry_is_known_or_counted() -> None:
    for name, kind in EXITS.items():
        rule = exit_named(name if kind.default is not None else f"{name}:2")
        assert counted(rule, 5) == (1 if kind in START else 5)
    assert set(EXITS.values()) - set(START) == {EXITS["fixed"]}


def test_the_spare_lane_starts_anew(tiny_config: Any) -> None:
    lanes = Lanes(tiny_config(), 2, 16, torch.empty(0))
    lanes.tables["h"].fill_(torch.inf)
    lanes.clear()
    assert lanes.tables["h"][2].abs().sum() == 0
    assert lanes.tables["h"][:2].isinf().all()
