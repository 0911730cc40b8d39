"""DeepSeekV3 at the FLOPs of config R."""

from typing import Any

import pytest
import torch

from open_mythos.bench.peers.deepseek import DeepSeekV3
from open_mythos.bench.sizes import size_r
from open_mythos.config.budget import flops_per_token


CPU = torch.device("cpu")


def test_its_depth_comes_within_a_twentieth_of_the_looped_networks_flops(library: Any) -> None:
    cfg = size_r().config("mla")
    stack = DeepSeekV3(cfg, CPU, torch.bfloat16).stack(1024)
    wanted = flops_per_token(cfg, 8, 1024).total
    assert stack.flops == pytest.approx(wanted, rel=0.05)


def test_every_loop_is_a_layer_of_its_own(library: Any) -> None:
    peer = DeepSeekV3(size_r().config("mla"), CPU, torch.bfloat16)
    settings = peer.settings(peer.stack(1024).layers)
    assert (settings.num_hidden_layers, settings.first_k_dense_replace) == (12, 4)
    assert (settings.n_routed_experts, settings.n_shared_experts) == (32, 4)
    assert settings.kv_lora_rank == 256
