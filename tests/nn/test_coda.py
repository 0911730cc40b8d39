"""What stands between loop and coda (the laws run each in a whole network)."""

import torch
from torch import nn

from open_mythos.nn.coda import coda_input
from open_mythos.nn.norm import RMSNorm


def test_each_kind(tiny_config) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(2, 3, 16)
    assert coda_input(tiny_config())(x) is x
    norm = coda_input(tiny_config(coda_input="norm", norm_eps=0.5))
    assert isinstance(norm, RMSNorm)
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 0.5).sqrt())
    square = coda_input(tiny_config(coda_input="linear"))
    assert isinstance(square, nn.Linear)
    assert square.bias is None
    torch.testing.assert_close(square(x), x @ square.weight.t())
