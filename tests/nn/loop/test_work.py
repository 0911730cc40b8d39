"""What is counted adds up; that the counts are right is in tests/laws/test_skipping.py."""

from collections.abc import Callable

import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.work import Work, metered, ran_apart, ran_whole
from open_mythos.nn.places import places_of


def test_all_positions_apart_are_all_positions(tiny_config: Callable[..., MythosConfig]) -> None:
    places = places_of(torch.ones(3, 5, dtype=torch.bool))
    for forms in (True, False):
        how = {"forms": forms, "predicts": True}
        assert ran_apart(places, 4, **how) == ran_whole(3, 5, 4, **how)


def test_a_prediction_is_a_product_with_the_vocabulary(
    tiny_config: Callable[..., MythosConfig],
) -> None:
    cfg = tiny_config()
    told, silent = (ran_whole(2, 3, 0, forms=True, predicts=p).flops(cfg) for p in (True, False))
    assert told - silent == 2 * 6 * cfg.dim * cfg.vocab_size


def test_work_adds_up_and_says_so() -> None:
    a, b = Work(10, 40, 100.0, 400.0), Work(5, 10, 50.0, 100.0)
    both = a + b
    assert both == Work(15, 50, 150.0, 500.0)
    assert both.share == 0.3
    assert Work().share == 1.0
    assert "15 of 50" in str(both)
    assert "30.0%" in str(both)


@torch.no_grad()
def test_a_meter_adds_up_passes_and_is_gone_after(tiny_config: Callable[..., MythosConfig]) -> None:
    model = OpenMythos(tiny_config(readout="last")).eval()
    ids = torch.randint(37, (2, 5))
    with metered(model.recurrent) as meter:
        one = model(ids, 3, return_output=True).work
        two = model(ids[:, :1], [2, 1], return_output=True).work
        model(ids, 3)
        assert meter.work == one + two + one
        assert meter.passes == 3
        assert not meter.seconds
    assert meter.seconds > 0
    assert model.recurrent.meter is None
    with metered(model.recurrent) as outer, metered(model.recurrent) as inner:
        model.generate(ids, 4, 3)
    assert inner.work.positions == 3 * (10 + 3 * 2)
    assert not outer.passes
