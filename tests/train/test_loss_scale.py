"""The loss scale against torch's, step by step, and where they part."""

import torch
from hypothesis import given, strategies as st

from open_mythos.train import loss_scale
from open_mythos.train.loss_scale import FLOOR, INTERVAL, START, LossScale


def of_torch(interval: int) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=START, growth_interval=interval)


def follow(scaler: torch.amp.GradScaler, finite: bool) -> None:
    """One step of a network of one number."""
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([p], lr=1.0)
    scaler.scale(p.sum()).backward()
    assert p.grad is not None
    if not finite:
        p.grad.fill_(float("inf"))
    scaler.unscale_(optimizer)
    scaler.update()


def test_its_numbers_are_torchs() -> None:
    scaler = torch.amp.GradScaler("cpu")
    assert scaler.get_scale() == START
    assert scaler.get_growth_interval() == INTERVAL
    assert scaler.get_growth_factor() == loss_scale.GROWTH
    assert scaler.get_backoff_factor() == loss_scale.BACKOFF


@given(
    finite=st.lists(st.booleans(), min_size=1, max_size=40).filter(lambda f: f.count(False) < 16)
)
def test_it_moves_as_torchs_does(finite: list[bool]) -> None:
    interval, before = 3, loss_scale.INTERVAL
    loss_scale.INTERVAL = interval
    try:
        own, scaler = LossScale.start(torch.device("cpu")), of_torch(interval)
        for flag in finite:
            follow(scaler, flag)
            own.settle(torch.tensor(flag))
            assert own.scale.item() == scaler.get_scale()
            assert own.calm.item() == scaler.state_dict()["_growth_tracker"]
    finally:
        loss_scale.INTERVAL = before


def test_it_never_falls_below_one_nor_grows_to_infinity() -> None:
    own = LossScale.start(torch.device("cpu"))
    seen = []
    for _ in range(20):
        own.settle(torch.tensor(False))
        seen.append(own.scale.item())
    assert seen[15] == seen[-1] == FLOOR == 1.0
    assert seen[14] == 2.0
    own.scale = torch.tensor(2.0**127)
    own.calm = torch.tensor(INTERVAL - 1, dtype=torch.int32)
    own.settle(torch.tensor(True))
    assert own.scale.item() == 2.0**127
    assert (own.scale.dtype, own.calm.dtype) == (torch.float32, torch.int32)
