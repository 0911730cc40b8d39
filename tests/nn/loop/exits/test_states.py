"""Changes of the state, against differences taken by hand."""

import pytest
import torch
from torch import Tensor

from open_mythos.nn.loop.exits.criterion import Kept, Seen
from open_mythos.nn.loop.exits.states import Acceleration, Fixed, Latent, Settled, relative


def scores(rule: Fixed | Latent | Settled | Acceleration, h: Tensor) -> list[Tensor]:
    found, kept = [], Kept()
    for t in range(1, len(h)):
        score, kept = rule.score(Seen(t, h[t - 1], h[t]), kept)
        found.append(score)
    return found


@pytest.fixture
def path() -> Tensor:
    """States h_0 .. h_5 of two rows of three positions."""
    return torch.randn(6, 2, 3, 8, dtype=torch.float64)


def test_fixed_counts(path: Tensor) -> None:
    assert [float(s.mean()) for s in scores(Fixed(3), path)] == [1, 2, 3, 4, 5]


def test_latent_is_the_relative_step(path: Tensor) -> None:
    for t, score in enumerate(scores(Latent(0.1), path), start=1):
        step = (path[t] - path[t - 1]).square().sum(-1).sqrt()
        torch.testing.assert_close(score, step / path[t].square().sum(-1).sqrt())


def test_settled_is_latent_twice_in_a_row(path: Tensor) -> None:
    once, twice = scores(Latent(0.1), path), scores(Settled(0.1), path)
    assert twice[0].isinf().all()
    for score, one, other in zip(twice[1:], once, once[1:], strict=False):
        torch.testing.assert_close(score, torch.maximum(one, other))


def test_a_pause_fools_latent_and_not_settled() -> None:
    """It moves, stands still for one loop, moves, and rests."""
    places = torch.tensor([0.0, 1.0, 2.0, 2.0, 3.0, 3.0, 3.0]).view(-1, 1, 1, 1)
    path = places * torch.randn(2, 3, 8) + torch.ones(8)

    def left(rule: Latent | Settled) -> int:
        return next(t for t, s in enumerate(scores(rule, path), 1) if bool(rule.done(s).all()))

    assert left(Latent(1e-6)) == 3
    assert left(Settled(1e-6)) == 6


def test_acceleration_asks_for_two_small_changes_in_a_row(path: Tensor) -> None:
    found = scores(Acceleration(0.1), path)
    assert found[0].isinf().all()
    assert found[1].isinf().all()
    change = [
        (path[t] - 2 * path[t - 1] + path[t - 2]).norm(dim=-1) / path[t].norm(dim=-1)
        for t in range(2, 6)
    ]
    for score, one, other in zip(found[2:], change, change[1:], strict=False):
        torch.testing.assert_close(score, torch.maximum(one, other))


def test_a_straight_line_accelerates_not_and_a_rest_moves_not() -> None:
    along, start = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    line = torch.stack([start + t * along for t in range(4)])
    assert scores(Acceleration(0.1), line)[2].max() < 1e-5
    assert scores(Latent(0.1), line)[2].min() > 1e-3
    assert scores(Latent(0.1), start.expand(3, 2, 3, 8))[1].max() == 0


def test_nothing_is_divided_by_zero() -> None:
    zero = torch.zeros(1, 1, 4)
    assert relative(zero, zero).item() == 0
    assert relative(torch.ones(1, 1, 4), zero).isfinite().all()


def test_sums_are_taken_in_float32() -> None:
    half = torch.full((1, 1, 4), 200.0).half()  # whose square is not a float16
    assert relative(half, half).item() == pytest.approx(1.0)
