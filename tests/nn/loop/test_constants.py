"""What loops share is formed once, and a copy of it is nobody else's."""

from collections.abc import Callable

import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.loop.recurrent import RecurrentBlock


Config = Callable[..., MythosConfig]


def test_a_copy_shares_no_storage_with_the_parameters(tiny_config: Config) -> None:
    loop = RecurrentBlock(tiny_config())
    like = torch.zeros(1)
    given, own = (loop.constants(3, like), loop.constants(3, like).copy())
    at = {p.untyped_storage().data_ptr() for p in loop.parameters()}
    assert any(t.untyped_storage().data_ptr() in at for t in given.tensors())
    assert not any(t.untyped_storage().data_ptr() in at for t in own.tensors())
    for a, b in zip(given.tensors(), own.tensors(), strict=True):
        assert torch.equal(a, b)


def test_the_last_loop_is_told_as_a_tensor_only_where_gradients_are_taken(
    tiny_config: Config,
) -> None:
    loop, like = RecurrentBlock(tiny_config()), torch.zeros(1)
    assert [bool(t.last) for t in loop.constants(3, like).ticks] == [False, False, True]
    assert all(isinstance(t.last, torch.Tensor) for t in loop.constants(3, like).ticks)
    with torch.no_grad():
        assert [t.last for t in loop.constants(3, like).ticks] == [False, False, True]


def test_parts_that_are_off_are_not_formed(tiny_config: Config) -> None:
    bare = tiny_config(loop_index=False, loop_lora=False, injection="add")
    with torch.no_grad():
        given = RecurrentBlock(bare).constants(2, torch.zeros(1))
    assert given.coefficients is None
    assert given.tensors() == []
    assert [(t.signal, t.scale) for t in given.ticks] == [(None, None)] * 2
