"""What contenders share: batches that fit, plain steps, sampled tokens."""

import pytest
import torch
from torch import nn

from open_mythos.bench.clock import Clock
from open_mythos.bench.contender import (
    halvings,
    largest_batch,
    random_ids,
    sampled,
    training_step,
)


CPU = torch.device("cpu")


def test_halvings_end_at_one() -> None:
    assert list(halvings(12)) == [12, 6, 3, 1]


@pytest.mark.parametrize(("room", "wanted"), [(32, 32), (20, 16), (1, 1)])
def test_the_largest_halving_that_fits_is_found(room: int, wanted: int) -> None:
    def attempt(batch: int) -> int:
        if batch > room:
            raise torch.OutOfMemoryError
        return batch

    assert largest_batch(32, attempt, Clock(CPU)) == wanted


def test_a_single_row_that_does_not_fit_is_told() -> None:
    def attempt(batch: int) -> int:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        largest_batch(4, attempt, Clock(CPU))


def test_a_training_step_lowers_the_loss_and_leaves_no_gradient() -> None:
    model = nn.Linear(4, 4)
    x = torch.randn(8, 4)

    def loss() -> torch.Tensor:
        return model(x).square().mean()

    before = loss().item()
    step = training_step(model, loss)
    for _ in range(20):
        step()
    assert loss().item() < before
    assert all(p.grad is None for p in model.parameters())


def test_a_sampled_token_is_among_the_likeliest() -> None:
    logits = torch.randn(200, 30)
    tokens = sampled(logits, top_k=3)
    assert tokens.shape == (200, 1)
    assert (tokens == logits.topk(3).indices).any(-1).all()
    assert len(tokens.unique()) > 1


def test_ids_are_drawn_over_the_whole_vocabulary() -> None:
    ids = random_ids(7, 100, 10, device=CPU)
    assert ids.dtype == torch.int64
    assert sorted(ids.unique().tolist()) == list(range(7))
