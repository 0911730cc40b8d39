"""Corrections: what each loop adds to the linear maps of the core, as products of low rank."""

import torch
from torch import nn

from open_mythos.config.budget import core_maps
from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.block import Corrected
from open_mythos.nn.fused import Low


class Corrections(nn.Module):
    """W + up[t] @ down[t] for every linear map W of one of the core's layers and every loop t.

    Relaxed recursive transformers (Bae et al., arXiv 2410.20672). Fused maps have one correction,
    whose down is the same for all parts. Rows are loops, as `cfg.loop_row` counts them; the product
    starts at zero. Where a map is smaller than the rank, its smaller side is the rank.
    """

    def __init__(self, cfg: MythosConfig) -> None:
        """Tables `NAME_down` (max_loop_iters, rank, in) and `NAME_up` (max_loop_iters, out, rank).

        The names are those of `Corrected`.
        """
        super().__init__()
        for name, (rows, columns) in core_maps(cfg).items():
            rank = min(cfg.core_lora_rank, rows, columns)
            down = torch.empty(cfg.max_loop_iters, rank, columns)
            up = torch.empty(cfg.max_loop_iters, rows, rank)
            self.register_parameter(f"{name}_down", nn.Parameter(down))
            self.register_parameter(f"{name}_up", nn.Parameter(up))
        self.reset_parameters(cfg.init_std)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Start at N(0, std) times zero: the product is nothing, its slope by `up` is not."""
        for name in Corrected._fields:
            nn.init.normal_(self.get_parameter(f"{name}_down"), std=std)
            nn.init.zeros_(self.get_parameter(f"{name}_up"))

    def of(self, row: int) -> Corrected:
        """The corrections of a table row."""
        tables = [(getattr(self, f"{n}_down"), getattr(self, f"{n}_up")) for n in Corrected._fields]
        return Corrected(*(Low(down[row], up[row]) for down, up in tables))
