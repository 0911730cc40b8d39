import math

import pytest
import torch

from open_mythos.eval.doctor.trajectory import period, relative, residuals, rms, sizes


def turning(loops: int, about: float, shrink: float = 1.0) -> list[torch.Tensor]:
    """A point on a spiral: a state that takes `about` loops to go round."""
    radii = [shrink**t for t in range(loops + 1)]
    angles = [2 * math.pi * t / about for t in range(loops + 1)]
    return [
        torch.tensor([[r * math.cos(a), r * math.sin(a), 0.0]])
        for r, a in zip(radii, angles, strict=True)
    ]


def test_sizes_and_residuals_of_a_geometric_walk() -> None:
    states = [torch.full((2, 3), 2.0**t) for t in range(5)]
    assert sizes(states) == pytest.approx([2.0, 4.0, 8.0, 16.0])
    assert residuals(states) == pytest.approx([0.5] * 4)
    assert rms(torch.tensor([3.0, 4.0])) == pytest.approx(math.sqrt(12.5))


def test_two_zeros_are_no_distance_apart() -> None:
    zero, one = torch.zeros(2), torch.ones(2)
    assert relative(zero, zero) == 0.0
    assert relative(zero, one) == math.inf
    assert relative(one, zero) == 1.0


@pytest.mark.parametrize("about", [2, 3, 5])
def test_a_cycle_is_found_by_its_length(about: int) -> None:
    assert period(turning(16, about)) == about
    noisy = [h + 0.02 * torch.randn_like(h) for h in turning(16, about)]
    assert period(noisy) == about


def test_a_fixed_point_has_period_one_and_other_walks_none() -> None:
    assert period(turning(16, 3, shrink=0.5)) is None  # on its way to zero by half each time
    settled = [torch.ones(4) + 0.5**t for t in range(17)]
    assert period(settled) == 1
    assert period(turning(16, 6.5)) is None  # never comes back
    assert period([torch.full((3,), float(t)) for t in range(17)]) is None
    assert period([*turning(15, 3), torch.full((1, 3), math.nan)]) is None
    assert period(turning(8, 3)) is None  # eight loops are too few to see three twice and more
