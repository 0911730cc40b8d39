"""The callback moves the biases as the network's own call does."""

import copy
from typing import Any

import pytest
import torch

from open_mythos.errors import InputError
from open_mythos.hf.balance import RouterBalance


def test_it_finds_the_network_inside_of_wrappers(hf_model: Any) -> None:
    model, ids = hf_model().train(), torch.randint(37, (2, 6))
    model(ids)
    twin = copy.deepcopy(model)
    twin.model.update_router_bias(0.25)
    RouterBalance(0.25).on_step_end(None, None, None, model=torch.nn.Sequential(model))
    ffn, other = model.model.recurrent.block.ffn, twin.model.recurrent.block.ffn
    assert torch.equal(ffn.router_bias, other.router_bias)
    assert not ffn.load.any()


def test_a_negative_step_is_refused() -> None:
    with pytest.raises(InputError, match=r"-0\.1"):
        RouterBalance(-0.1)
