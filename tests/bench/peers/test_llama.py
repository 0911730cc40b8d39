"""Llama at the FLOPs of config R."""

from typing import Any

import pytest
import torch

from open_mythos.bench.peers.llama import Llama
from open_mythos.bench.sizes import size_r
from open_mythos.config.budget import flops_per_token


CPU = torch.device("cpu")


def test_its_depth_comes_within_a_twentieth_of_the_looped_networks_flops(library: Any) -> None:
    cfg = size_r().config("gqa")
    stack = Llama(cfg, CPU, torch.bfloat16).stack(1024)
    wanted = flops_per_token(cfg, 8, 1024).total
    assert stack.flops == pytest.approx(wanted, rel=0.05)


def test_it_is_as_wide_as_the_network_it_stands_beside(library: Any) -> None:
    peer = Llama(size_r().config("gqa"), CPU, torch.bfloat16, compiled=True)
    settings = peer.settings(peer.stack(1024).layers)
    assert peer.name == "HF Llama compiled"
    assert (settings.hidden_size, settings.head_dim, settings.num_key_value_heads) == (1024, 64, 4)
    assert (settings.num_hidden_layers, settings.intermediate_size) == (13, 2816)
