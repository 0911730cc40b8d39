"""Linear is nn.Linear without a bias, to whoever looks at it or through it."""

import torch
from torch import nn

from open_mythos.nn.linear import Linear


def test_it_is_a_linear_map_with_gradients() -> None:
    layer, x = Linear(5, 3).double(), torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert isinstance(layer, nn.Linear)
    assert layer.bias is None
    y = layer(x)
    torch.testing.assert_close(y, torch.einsum("bsi,oi->bso", x, layer.weight))
    up = torch.randn_like(y)
    (y * up).sum().backward()
    torch.testing.assert_close(layer.weight.grad, torch.einsum("bso,bsi->oi", up, x))
    torch.testing.assert_close(x.grad, torch.einsum("bso,oi->bsi", up, layer.weight))


def test_hooks_see_every_call() -> None:
    layer, seen = Linear(2, 2), []
    layer.register_forward_hook(lambda _, args, y: seen.append((args[0], y)))
    x = torch.randn(1, 2)
    y = layer(x)
    assert seen[0][0] is x
    assert seen[0][1] is y
