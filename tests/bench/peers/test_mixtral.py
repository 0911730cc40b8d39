"""Mixtral at the FLOPs of config R."""

from typing import Any

import pytest
import torch

from open_mythos.bench.peers.mixtral import Mixtral
from open_mythos.bench.sizes import size_r
from open_mythos.config.budget import flops_per_token


CPU = torch.device("cpu")


def test_its_depth_comes_within_a_twentieth_of_the_looped_networks_flops(library: Any) -> None:
    cfg = size_r().config("gqa")
    stack = Mixtral(cfg, CPU, torch.bfloat16).stack(1024)
    wanted = flops_per_token(cfg, 8, 1024).total
    assert stack.flops == pytest.approx(wanted, rel=0.05)


def test_it_picks_more_experts_in_place_of_those_always_on(library: Any) -> None:
    peer = Mixtral(size_r().config("gqa"), CPU, torch.bfloat16)
    settings = peer.settings(peer.stack(1024).layers)
    assert (settings.num_local_experts, settings.num_experts_per_tok) == (32, 8)
    assert settings.num_hidden_layers == 10
    assert settings._experts_implementation == "grouped_mm"
