"""The SwiGLU feed-forward: dense FFN of prelude and coda, and the shape of every expert."""

from torch import Tensor, nn
from torch.nn import functional as F

from open_mythos.nn.fused import FusedLinear, HasParts, LinearView


class Expert(HasParts):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, dim: int, expert_dim: int) -> None:
        """Map width `dim` to itself through a hidden width of `expert_dim`."""
        super().__init__()
        self.gate_up = FusedLinear(dim, {"gate": expert_dim, "up": expert_dim})
        self.down = nn.Linear(expert_dim, dim, bias=False)

    @property
    def gate(self) -> LinearView:
        """The gate's map, a view of the fused weight."""
        return self.gate_up.part("gate")

    @property
    def up(self) -> LinearView:
        """The up map, a view of the fused weight."""
        return self.gate_up.part("up")

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        gate, up = self.gate_up(x)
        out: Tensor = self.down(F.silu(gate) * up)
        return out
