"""State updates: how the state h, the frozen input e and the block's output f make the next h.

Every injection has two halves: `enter`, what the block reads, and `forward`, the next state.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from open_mythos.config.mythos import InputWrite, MythosConfig
from open_mythos.nn.linear import Linear
from open_mythos.nn.loop.hyper import HyperConnections
from open_mythos.ops.loop_end import linear_update


# Bounds of log_dt + log_A. Above 4.4, A = exp(-exp(4.4)) = 5e-36 would near float32's zero. Below
# the lower bound A would round to one: in float32 past exp(-exp(-16)) = 1 - 1.1e-7, in 16 bits
# past exp(-exp(-5.5)) = 0.9959 (bfloat16's last number below one is 0.9961).
UPPER = 4.4
LOWER = -16.0
LOWER_HALF = -5.5

Addends = tuple[Tensor, Tensor | None, Tensor | None]  # state, loop signal (dim,), input


@dataclass(frozen=True)
class Coefficients:
    """A and B of one pass in float32 or wider, formed once and not per loop.

    Attributes:
        a: (dim,), the diagonal of A.
        b: (dim,), the diagonal of B; or (dim, dim), B itself.
    """

    a: Tensor
    b: Tensor

    def drive(self, h: Tensor, e: Tensor) -> Tensor:
        """A h + B e, (B, S, dim)."""
        if self.b.dim() == 1:
            return self.a * h + self.b * e
        return self.a * h + F.linear(e, self.b.to(e.dtype))


class Injection(nn.Module):
    """h <- f: what injections have in common, and the block's own argument h + e.

    Attributes:
        streams: Widths of the model's that the state is wide.
    """

    streams: int = 1

    def coefficients(self) -> Coefficients | None:
        """What all loops of a pass share; None where nothing has to be formed."""
        return None

    def carry(self, known: Coefficients | None) -> tuple[Tensor, Tensor] | None:  # noqa: ARG002
        """Diagonals (a, b) if the next state is a h + b e + f, None if it is f."""
        return None

    @property
    def fusable(self) -> bool:
        """Whether the next state is what `carry` says, so that one kernel can form it."""
        return True

    def enter(
        self,
        h: Tensor,
        e: Tensor,
        signal: Tensor | None,
        known: Coefficients | None = None,  # noqa: ARG002
    ) -> Addends:
        """What the block reads, as addends: the sum is taken together with the norm."""
        return h, signal, e

    def spread(self, h: Tensor) -> Tensor:
        """A starting state (B, S, dim) as the loop keeps it."""
        return h

    def gathered(self, state: Tensor) -> Tensor:
        """A state of the loop as the readout and the coda see it, (B, S, dim)."""
        return state

    def forward(
        self,
        h: Tensor,  # noqa: ARG002
        e: Tensor,  # noqa: ARG002
        transformer_out: Tensor,
        known: Coefficients | None = None,  # noqa: ARG002
    ) -> Tensor:
        """The next state, in the dtype of `h`."""
        return transformer_out


class AddInjection(Injection):
    """h <- f: no linear carry; the input enters through the block's own argument h + e alone."""


class NoInjection(Injection):
    """h <- f, f = block(h): the input is where the loop starts, and is not seen again.

    Universal Transformers (Dehghani et al., arXiv 1807.03819), Ouro (arXiv 2510.25741).
    """

    def enter(
        self,
        h: Tensor,
        e: Tensor,  # noqa: ARG002
        signal: Tensor | None,
        known: Coefficients | None = None,  # noqa: ARG002
    ) -> Addends:
        """The state alone."""
        return h, signal, None


class LTIInjection(Injection):
    """h <- A h + B e + f with a diagonal A that lies in (0, 1) whatever the parameters are.

    A = exp(-dt a), with dt = exp(log_dt) and a = exp(log_A), is the exact step of the stable linear
    system dh/dt = -a h + b e (the zero-order hold of state-space models; used for looped models by
    Parcae, arXiv 2604.12946). What the input writes in that step is `input_write`:
    "free" leaves B a parameter of its own, as open-mythos 0.5.0 does; "euler" is dt B, Parcae's;
    "zoh" is the exact integral (1 - A) / a B. The linear part alone is contracting: rho(A) < 1
    says nothing about the block inside the loop.
    """

    def __init__(
        self,
        dim: int,
        decay: float = math.exp(-1.0),
        input_write: InputWrite = "free",
        *,
        matrix: bool = False,
    ) -> None:
        """`dim` channels; A starts at `decay` in every one, B at 0.1, or a full B at identity."""
        super().__init__()
        self.input_write = input_write
        self.log_A = nn.Parameter(torch.full((dim,), math.log(-math.log(decay))))
        self.log_dt = nn.Parameter(torch.zeros(1))
        self.B = nn.Parameter(torch.eye(dim) if matrix else torch.full((dim,), 0.1))

    def _rate(self) -> Tensor:
        """The product dt a, (dim,), in float32 or wider: positive, and such that A is not one."""
        half = self.log_A.dtype in (torch.bfloat16, torch.float16)
        wide = torch.float64 if self.log_A.dtype == torch.float64 else torch.float32
        exponent = self.log_dt.to(wide) + self.log_A.to(wide)
        # Infinite or absurd parameters are finite before they meet: inf - inf would be NaN.
        exponent = exponent.nan_to_num(nan=UPPER).clamp(LOWER_HALF if half else LOWER, UPPER)
        return torch.exp(exponent)

    def get_A(self) -> Tensor:
        """The diagonal of A, (dim,), strictly inside (0, 1), in float32 or wider."""
        return torch.exp(-self._rate())

    @torch.no_grad()
    def spectral_radius(self) -> float:
        """The largest entry of the diagonal A: its spectral radius."""
        return float(self.get_A().max())

    def coefficients(self) -> Coefficients:
        """A and B as the loops of one pass use them."""
        rate = self._rate()
        b = self.B.to(rate.dtype)
        if self.input_write != "free":
            gain = torch.exp(self.log_dt.to(rate.dtype).nan_to_num().clamp(LOWER, UPPER))
            if self.input_write == "zoh":  # (1 - A) / a = dt (1 - exp(-dt a)) / (dt a)
                gain = gain * -torch.expm1(-rate) / rate
            b = gain * b if b.dim() == 1 else gain.unsqueeze(-1) * b
        return Coefficients(torch.exp(-rate), b)

    def carry(self, known: Coefficients | None) -> tuple[Tensor, Tensor] | None:
        """A and B where both are diagonal."""
        return None if known is None else (known.a, known.b)

    @property
    def fusable(self) -> bool:
        """Where B is a diagonal."""
        return self.B.dim() == 1

    def forward(
        self, h: Tensor, e: Tensor, transformer_out: Tensor, known: Coefficients | None = None
    ) -> Tensor:
        """The next state (B, S, dim), formed in float32 and returned in the state's dtype."""
        c = self.coefficients() if known is None else known
        if c.b.dim() == 1:
            return linear_update(h, e, transformer_out, c.a, c.b)
        return (c.drive(h, e) + transformer_out).to(h.dtype)


class LTIFirst(LTIInjection):
    """h <- block(A h + B e): the linear step first, the block on its result (Parcae)."""

    def enter(
        self, h: Tensor, e: Tensor, signal: Tensor | None, known: Coefficients | None = None
    ) -> Addends:
        """The linear step's result, in the state's dtype."""
        c = self.coefficients() if known is None else known
        return c.drive(h, e).to(h.dtype), signal, None

    def carry(self, known: Coefficients | None) -> None:  # noqa: ARG002
        """None: the linear step is taken before the block."""
        return

    @property
    def fusable(self) -> bool:
        """Always: the next state is the block's output."""
        return True

    def forward(
        self,
        h: Tensor,
        e: Tensor,  # noqa: ARG002
        transformer_out: Tensor,
        known: Coefficients | None = None,  # noqa: ARG002
    ) -> Tensor:
        """The block's output."""
        return transformer_out.to(h.dtype)


class ConcatLinear(Injection):
    """h <- block(W [h; e]): one linear map of state and input side by side.

    Huginn (Geiping et al., arXiv 2502.05171); every channel of the input reaches every channel of
    the block, and nothing bounds what the map does to the state.
    """

    def __init__(self, dim: int) -> None:
        """A map from 2 * dim to dim."""
        super().__init__()
        self.mix = Linear(2 * dim, dim)

    def enter(
        self,
        h: Tensor,
        e: Tensor,
        signal: Tensor | None,
        known: Coefficients | None = None,  # noqa: ARG002
    ) -> Addends:
        """The map's result."""
        return self.mix(torch.cat((h, e), dim=-1)), signal, None


class DampedInjection(Injection):
    """h <- (1 - damping) h + damping f: a step of part length towards what the block says.

    Equilibrium reasoners use it (damping 0.95) to reach fixed points that the plain step circles.
    """

    def __init__(self, damping: float) -> None:
        """`damping` in (0, 1]; 1 is `AddInjection`."""
        super().__init__()
        self.damping = damping

    @property
    def fusable(self) -> bool:
        """No: f is scaled."""
        return False

    def forward(
        self,
        h: Tensor,
        e: Tensor,  # noqa: ARG002
        transformer_out: Tensor,
        known: Coefficients | None = None,  # noqa: ARG002
    ) -> Tensor:
        """The next state."""
        next_state: Tensor = torch.lerp(h, transformer_out.to(h.dtype), self.damping)
        return next_state


class SubstepInjection(DampedInjection):
    """h <- (1 - damping) h + damping block(h): a part of the step that the block takes.

    A stack of residual blocks taken as an Euler step of length one is refined by n steps of length
    damping = 1 / n, without training (Chen et al., arXiv 2605.23872); with 1 it is `NoInjection`.
    """

    def enter(
        self,
        h: Tensor,
        e: Tensor,  # noqa: ARG002
        signal: Tensor | None,
        known: Coefficients | None = None,  # noqa: ARG002
    ) -> Addends:
        """The state alone."""
        return h, signal, None


class HyperInjection(Injection):
    """Several streams of state, which the block's output is written to by learned connections.

    Hyper-connections (Zhu et al., arXiv 2409.19606) with the looped block as the layer; see
    `HyperConnections` for the equations.
    """

    def __init__(self, dim: int, streams: int, eps: float = 1e-6) -> None:
        """`streams` states of width `dim`; `eps` is the norm's."""
        super().__init__()
        self.streams = streams
        self.connections = HyperConnections(dim, streams, eps)

    @property
    def fusable(self) -> bool:
        """No: the state is wider than what the block says."""
        return False

    def enter(
        self,
        h: Tensor,
        e: Tensor,
        signal: Tensor | None,
        known: Coefficients | None = None,  # noqa: ARG002
    ) -> Addends:
        """The streams' weighted sum, beside the input."""
        return self.connections.read(h), signal, e

    def spread(self, h: Tensor) -> Tensor:
        """The same state in every stream, (B, S, streams * dim)."""
        return h.repeat(1, 1, self.streams)

    def gathered(self, state: Tensor) -> Tensor:
        """The sum of the streams."""
        total: Tensor = state.unflatten(-1, (self.streams, -1)).sum(-2)
        return total

    def forward(
        self,
        h: Tensor,
        e: Tensor,  # noqa: ARG002
        transformer_out: Tensor,
        known: Coefficients | None = None,  # noqa: ARG002
    ) -> Tensor:
        """The next streams, (B, S, streams * dim)."""
        return self.connections.write(h, transformer_out)


def build_injection(cfg: MythosConfig) -> Injection:
    """The injection that the config names."""
    if cfg.injection in ("lti", "lti_first"):
        kind = LTIInjection if cfg.injection == "lti" else LTIFirst
        return kind(cfg.dim, cfg.lti_decay, cfg.input_write, matrix=cfg.input_matrix)
    if cfg.injection == "concat_linear":
        return ConcatLinear(cfg.dim)
    if cfg.injection in ("damped", "substep"):
        kind_of_step = DampedInjection if cfg.injection == "damped" else SubstepInjection
        return kind_of_step(cfg.damping)
    if cfg.injection == "hyper":
        return HyperInjection(cfg.dim, cfg.streams, cfg.norm_eps)
    return NoInjection() if cfg.injection == "none" else AddInjection()
