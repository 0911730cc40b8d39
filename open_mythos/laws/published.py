"""Constants as the papers print them: what a fit can be held against."""

from collections.abc import Mapping
from types import MappingProxyType

from open_mythos.laws.law import Constants


# Parcae (arXiv 2604.12946), table 11, with the paper's letters. Tokens are counted one by one,
# parameters as those of the unrolled network; loss in nats on FineWeb-Edu.
PARCAE: Mapping[str, Constants] = MappingProxyType(
    {
        "140M": {"E": 2.662, "A": 522733.307, "a": 0.771, "B": 25420.102, "b": 0.525},
        "370M": {"E": 2.439, "A": 832134.346, "a": 0.775, "B": 6386.865, "b": 0.448},
    }
)

# Schwethelm et al. (arXiv 2604.21106), table 2, the row with phi free; 95 % of phi: 0.41 .. 0.53.
# Parameters without embedding and head. The table leaves A and B out, as hardly determined: these
# two are ours, such that at r = 1 the law agrees with table 1's own fit of r = 1 over table 6's
# widths and tokens (A = 58, alpha = 0.251, B = 150, beta = 0.267, E = 1.56), to 0.6 %.
SCHWETHELM: Constants = MappingProxyType(
    {"E": 1.57, "A": 27.67, "B": 927.0, "phi": 0.459, "alpha": 0.199, "beta": 0.369}
)
# The same paper: phi with gradients through the last half of the loops alone, and with two lanes
# of hyper-connections (table 3).
SCHWETHELM_PHI: Mapping[str, float] = MappingProxyType(
    {"plain": 0.459, "truncated": 0.38, "hyper-connections": 0.65}
)
