import torch
from torch import Tensor, nn

from open_mythos.parallel.gradients import clip_gradients, gradients, local_part


def draw() -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5)), nn.Parameter()]
    for parameter in parameters[:2]:
        parameter.grad = torch.randn_like(parameter)
    return parameters


def flat(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([grad.flatten() for grad in gradients(parameters)])


def test_gradients_are_scaled_to_the_limit_and_no_further() -> None:
    parameters = draw()
    before = flat(parameters).clone()
    assert torch.equal(clip_gradients(parameters, 0.0), clip_gradients(parameters, 1e3))
    assert torch.equal(flat(parameters), before)
    norm = clip_gradients(parameters, 0.5)
    torch.testing.assert_close(norm, before.norm())
    torch.testing.assert_close(flat(parameters), before * (0.5 / before.norm()), atol=1e-6, rtol=0)


def test_parts_of_several_ranks_make_one_norm() -> None:
    """The second part is another rank's to count; what that one counts comes with the sum."""
    parameters = draw()
    parts = gradients(parameters)
    mine, theirs = parts[0].norm(), parts[1].norm()

    def world(square: Tensor) -> Tensor:
        torch.testing.assert_close(square, mine.square())
        return square.add_(theirs.square())

    before = flat(parameters).clone()
    norm = clip_gradients(parameters, 0.1, parameters[:1], world)
    torch.testing.assert_close(norm, before.norm())
    torch.testing.assert_close(flat(parameters).norm(), torch.tensor(0.1), atol=1e-5, rtol=0)


def test_a_rank_that_counts_nothing_scales_all_the_same() -> None:
    parameters = draw()
    norm = clip_gradients(parameters, 1.0, [], lambda square: square + 4.0)
    assert norm == 2.0


def test_what_is_no_number_is_the_norm() -> None:
    parameters = draw()
    parameters[0].grad = torch.full((3, 4), torch.nan)
    assert clip_gradients(parameters, 1.0).isnan()


def test_a_plain_tensor_is_its_own_part() -> None:
    tensor = torch.randn(3)
    assert local_part(tensor) is tensor
