"""How parameters start, by the kind of module that holds them."""

import torch
from torch import nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.loop.adapter import LoRAAdapter
from open_mythos.nn.loop.corrections import Corrections
from open_mythos.nn.loop.recurrent import RecurrentBlock
from open_mythos.nn.moe.layer import MoEFFN


@torch.no_grad()
def initialise(model: nn.Module, cfg: MythosConfig) -> None:
    """Start every Linear, Embedding, expert stack and the adapter's B at N(0, cfg.init_std).

    The halting bias starts at 0; norm weights and the injection's parameters keep what their
    modules set. The model then starts its embedding and its last norm by fields of their own.
    """
    std = cfg.init_std
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, MoEFFN):
            nn.init.normal_(module.gate_up, std=std)
            nn.init.normal_(module.down, std=std)
        elif isinstance(module, LoRAAdapter):
            nn.init.normal_(module.B, std=std)
        elif isinstance(module, Corrections):
            module.reset_parameters(std)
        elif isinstance(module, RecurrentBlock) and module.routers is not None:
            nn.init.normal_(module.routers, std=std)
