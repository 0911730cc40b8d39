import torch
from torch import nn

from open_mythos.parallel.spread import Spread


def test_one_process_is_the_whole_step() -> None:
    spread, model = Spread(), nn.Linear(2, 2)
    assert (spread.data_rank, spread.data_world) == (0, 1)
    assert spread.caller(model) is model
    numbers = torch.randn(3)
    assert torch.equal(spread.sum(numbers.clone()), numbers)
    with spread.passing(last=False), spread.passing(last=True):
        pass
