"""What stands between the loop and the coda."""

from torch import nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.linear import Linear
from open_mythos.nn.norm import RMSNorm


def coda_input(cfg: MythosConfig) -> nn.Module:
    """The layer (B, S, dim) -> (B, S, dim) through which the coda reads the loop's readout.

    Huginn (arXiv 2502.05171) norms it, Parcae (arXiv 2604.12946) maps it; "plain" is neither.
    """
    if cfg.coda_input == "norm":
        return RMSNorm(cfg.dim, cfg.norm_eps)
    return Linear(cfg.dim, cfg.dim) if cfg.coda_input == "linear" else nn.Identity()
