import torch
from torch import nn

from open_mythos.ops.head_loss import head_loss
from open_mythos.parallel.spread import Spread


def test_one_process_is_the_whole_step() -> None:
    spread, model = Spread(), nn.Linear(2, 2)
    assert (spread.data_rank, spread.data_world) == (0, 1)
    assert spread.caller(model) is model
    assert spread.independent
    numbers = torch.randn(3)
    assert torch.equal(spread.sum(numbers.clone()), numbers)
    with spread.passing(last=False), spread.passing(last=True), spread.whole(model):
        pass


def test_its_loss_and_norm_are_the_plain_ones() -> None:
    spread, model, x, targets = Spread(), nn.Linear(3, 5, bias=False), torch.randn(4, 3), None
    targets = torch.randint(5, (4,))
    cost = spread.head_loss(x, model.weight, targets, z_loss=0.1)
    assert torch.equal(cost.total, head_loss(x, model.weight, targets, z_loss=0.1).total)
    cost.total.backward()
    assert model.weight.grad is not None
    before = model.weight.grad.clone()
    torch.testing.assert_close(spread.clip(model, 1e-3), before.norm())
    assert model.weight.grad.norm() < 1.1e-3
