"""MoDA: Mixture-of-Depths Attention (arXiv 2603.15619), a second network on the shared layers."""

from open_mythos.moda.cache import MoDACache as MoDACache
from open_mythos.moda.config import MoDAConfig as MoDAConfig
from open_mythos.moda.model import MoDAModel as MoDAModel
