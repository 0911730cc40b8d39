"""State updates: how the state h, the frozen input e and the block's output f make the next h."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig


# Bounds of log_dt + log_A. Above 4.4, A = exp(-exp(4.4)) = 5e-36 would near float32's zero. Below
# the lower bound A would round to one: in float32 past exp(-exp(-16)) = 1 - 1.1e-7, in 16 bits
# past exp(-exp(-5.5)) = 0.9959 (bfloat16's last number below one is 0.9961).
UPPER = 4.4
LOWER = -16.0
LOWER_HALF = -5.5


@dataclass(frozen=True)
class Coefficients:
    """A and B of one pass, (dim,) each, in float32 or wider: formed once, not per loop."""

    a: Tensor
    b: Tensor


class LTIInjection(nn.Module):
    """h <- A h + B e + f with a diagonal A that lies in (0, 1) whatever the parameters are.

    A = exp(-exp(log_dt + log_A)) is the exact step of a stable linear system (the zero-order hold
    of state-space models; used for looped models by Parcae, arXiv 2604.12946). The linear part
    alone is contracting: rho(A) < 1 says nothing about the block inside the loop.
    """

    def __init__(self, dim: int, decay: float = math.exp(-1.0)) -> None:
        """`dim` channels; A starts at `decay` in every one, B at 0.1."""
        super().__init__()
        start = math.log(-math.log(decay))
        self.log_A = nn.Parameter(torch.full((dim,), start))
        self.log_dt = nn.Parameter(torch.zeros(1))
        self.B = nn.Parameter(torch.full((dim,), 0.1))

    def get_A(self) -> Tensor:
        """The diagonal of A, (dim,), strictly inside (0, 1), in float32 or wider."""
        half = self.log_A.dtype in (torch.bfloat16, torch.float16)
        wide = torch.float64 if self.log_A.dtype == torch.float64 else torch.float32
        exponent = self.log_dt.to(wide) + self.log_A.to(wide)
        # Infinite or absurd parameters are finite before they meet: inf - inf would be NaN.
        exponent = exponent.nan_to_num(nan=UPPER).clamp(LOWER_HALF if half else LOWER, UPPER)
        return torch.exp(-torch.exp(exponent))

    @torch.no_grad()
    def spectral_radius(self) -> float:
        """The largest entry of the diagonal A: its spectral radius."""
        return float(self.get_A().max())

    def coefficients(self) -> Coefficients:
        """A and B as the loops of one pass use them."""
        a = self.get_A()
        return Coefficients(a, self.B.to(a.dtype))

    def forward(
        self, h: Tensor, e: Tensor, transformer_out: Tensor, known: Coefficients | None = None
    ) -> Tensor:
        """The next state (B, S, dim), formed in float32 and returned in the state's dtype."""
        c = self.coefficients() if known is None else known
        return (c.a * h + c.b * e + transformer_out).to(h.dtype)


class AddInjection(nn.Module):
    """h <- f: no linear carry; the input enters through the block's own argument h + e alone."""

    def coefficients(self) -> None:
        """None: there is nothing to form."""
        return

    def forward(
        self,
        h: Tensor,  # noqa: ARG002
        e: Tensor,  # noqa: ARG002
        transformer_out: Tensor,
        known: None = None,  # noqa: ARG002
    ) -> Tensor:
        """The block's output is the next state."""
        return transformer_out


def build_injection(cfg: MythosConfig) -> LTIInjection | AddInjection:
    """The injection that the config names."""
    if cfg.injection == "add":
        return AddInjection()
    return LTIInjection(cfg.dim, cfg.lti_decay)
