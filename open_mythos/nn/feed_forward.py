"""The SwiGLU feed-forward: dense FFN of prelude and coda, and the shape of every expert."""

from torch import Tensor

from open_mythos.nn.fused import FusedLinear, HasParts, LinearView, Low, fused
from open_mythos.nn.linear import Linear
from open_mythos.nn.watched import patched
from open_mythos.ops.few import feed_forward
from open_mythos.ops.projections import swiglu


class Expert(HasParts):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, dim: int, expert_dim: int) -> None:
        """Map width `dim` to itself through a hidden width of `expert_dim`."""
        super().__init__()
        self.gate_up = FusedLinear(dim, {"gate": expert_dim, "up": expert_dim})
        self.down = Linear(expert_dim, dim)

    @property
    def gate(self) -> LinearView:
        """The gate's map, a view of the fused weight."""
        return fused(self.gate_up).part("gate")

    @property
    def up(self) -> LinearView:
        """The up map, a view of the fused weight."""
        return fused(self.gate_up).part("up")

    def forward(
        self,
        x: Tensor,
        plus: Tensor | None = None,
        *,
        spare: bool = False,
        gate_up: Low | None = None,
        down: Low | None = None,
    ) -> Tensor:
        """(..., dim) -> (..., dim), with `plus` (..., dim) added to it, overwritten if `spare`.

        `gate_up` and `down` are corrections of the two maps, given together.
        """
        if gate_up is not None and down is not None:
            inner = swiglu(gate_up.onto(self.gate_up(x), x))
            said = down.onto(self.down(inner), inner)
            return said if plus is None else said + plus
        if patched(self.down) or patched(self.gate_up):
            out: Tensor = self.down(swiglu(self.gate_up(x)))
            return out if plus is None else out + plus
        return feed_forward(x, self.gate_up.weight, self.down.weight, plus, spare=spare)
