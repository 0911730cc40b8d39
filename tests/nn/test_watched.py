"""Who looks into a layer is noticed, and forgotten when gone."""

import pytest
import torch

from open_mythos.nn.linear import Linear
from open_mythos.nn.watched import foreign, patched


def test_patched_sees_a_replaced_forward() -> None:
    module = torch.nn.Linear(1, 1)
    assert not patched(module)
    module.forward = module.forward
    assert patched(module)


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_patched_sees_each_hook_alone_and_forgets_it(register: str) -> None:
    module = torch.nn.Linear(1, 1)
    handle = getattr(module, register)(lambda *_: None)
    assert patched(module)
    handle.remove()
    assert not patched(module)


def test_a_class_of_somebody_elses_counts_as_patched_and_ours_does_not() -> None:
    class Wrapper(torch.nn.Module):
        """Stands where a linear map stood."""

    assert foreign(Wrapper())
    assert patched(Wrapper())
    assert not foreign(torch.nn.Linear(1, 1))
    assert not foreign(Linear(1, 1))


def test_a_weight_of_somebody_elses_class_makes_its_layer_foreign() -> None:
    class Packed(torch.Tensor):
        """Stands where a weight stood."""

    layer = Linear(2, 2)
    assert not foreign(layer)
    layer.weight = torch.nn.Parameter(layer.weight.detach().as_subclass(Packed))
    assert foreign(layer)
    assert patched(layer)
