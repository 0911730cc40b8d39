"""The mixture-of-experts feed-forward of the recurrent block."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.feed_forward import Expert
from open_mythos.nn.fused import HasParts, LinearView
from open_mythos.nn.linear import Linear
from open_mythos.nn.moe.balance import step_bias
from open_mythos.nn.watched import foreign
from open_mythos.ops.backend import ExpertsBackend, traced
from open_mythos.ops.experts import run_experts
from open_mythos.ops.few import EXPERT_ROWS, few_rows, moe_few
from open_mythos.ops.routing import Routing, route


class ExpertView:
    """One expert inside stacked storage, with the parts of an `Expert`."""

    def __init__(self, gate: Tensor, up: Tensor, down: Tensor) -> None:
        """Wrap (hidden, dim), (hidden, dim) and (dim, hidden) views."""
        self.gate, self.up, self.down = LinearView(gate), LinearView(up), LinearView(down)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))

    def parameters(self) -> Iterator[Tensor]:
        """The three weights."""
        return (view.weight for view in (self.gate, self.up, self.down))


class ExpertViews(Sequence[ExpertView]):
    """The experts of stacked storage, one by one, each with the real values."""

    def __init__(self, count: int, view: Callable[[int], ExpertView]) -> None:
        """`count` experts, made by `view` when asked for."""
        self._count, self._view = count, view

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> ExpertView: ...
    @overload
    def __getitem__(self, index: slice) -> list[ExpertView]: ...
    def __getitem__(self, index: int | slice) -> ExpertView | list[ExpertView]:
        if isinstance(index, slice):
            return [self._view(i) for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return self._view(index % self._count)

    def __iter__(self) -> Iterator[ExpertView]:
        return (self._view(i) for i in range(self._count))

    def parameters(self) -> Iterator[Tensor]:
        """Every expert's weights, for counting; the parameters themselves are the stacks."""
        return (weight for expert in self for weight in expert.parameters())


class Stacks(NamedTuple):
    """The routed experts' weights, in whatever order they lie in memory.

    Attributes:
        gate_up: (E, dim, 2 * expert_dim).
        down: (E, expert_dim, dim).
    """

    gate_up: Tensor
    down: Tensor

    def by_output(self) -> "Stacks":
        """A copy of the same shapes in which the weights of each output lie side by side.

        Sums of products (`ops.backend.summed`) then read memory in order: the experts of a row
        take half the time in bfloat16 (16 columns of a row are half a cache line).
        """
        return Stacks(*(t.mT.clone(memory_format=torch.contiguous_format).mT for t in self))


class MoEFFN(HasParts):
    """Routed experts of which each token visits k, plus experts that are always on (DeepSeekMoE).

    The routed experts are stacked, gate_up (E, dim, 2 * expert_dim) and down (E, expert_dim,
    dim); the always-on ones are one SwiGLU of their summed width, which is the same function.
    """

    experts_backend: ExpertsBackend = "auto"
    together: bool = True  # whether all routed experts are in this process
    alike: int = 1  # processes that route the same tokens, this one included

    def __init__(self, cfg: MythosConfig) -> None:
        """Use the expert fields of `cfg`."""
        super().__init__()
        self.cfg = cfg
        self.topk = cfg.n_experts_per_tok
        self.n_experts, self.n_shared = cfg.n_experts, cfg.n_shared_experts
        self.router = Linear(cfg.dim, cfg.n_experts)
        self.gate_up = nn.Parameter(torch.empty(cfg.n_experts, cfg.dim, 2 * cfg.expert_dim))
        self.down = nn.Parameter(torch.empty(cfg.n_experts, cfg.expert_dim, cfg.dim))
        nn.init.normal_(self.gate_up, std=0.02)
        nn.init.normal_(self.down, std=0.02)
        width = cfg.n_shared_experts * cfg.shared_width
        self.shared = Expert(cfg.dim, width) if width else None
        self.router_bias: Tensor
        self.register_buffer("router_bias", torch.zeros(cfg.n_experts))
        self.load: Tensor  # tokens per expert since the last bias step
        self.register_buffer(
            "load", torch.zeros(cfg.n_experts, dtype=torch.int64), persistent=False
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MoEFFN":
        """Keep the bias in float32: bfloat16 would swallow steps of 0.001."""
        before = self.router_bias
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.router_bias.dtype in (torch.bfloat16, torch.float16):
            self.router_bias = before.float().to(self.router_bias.device)
        return self

    @property
    def routed_experts(self) -> ExpertViews:
        """The routed experts one by one; views of the stacked weights."""
        hidden = self.cfg.expert_dim

        def view(i: int) -> ExpertView:
            gate, up = self.gate_up[i].t().split(hidden)
            return ExpertView(gate, up, self.down[i].t())

        return ExpertViews(self.n_experts, view)

    @property
    def shared_experts(self) -> ExpertViews:
        """The always-on experts one by one; views of their joint weights."""
        width, shared = self.cfg.shared_width, self.shared

        def view(i: int) -> ExpertView:
            assert shared is not None
            own = slice(i * width, (i + 1) * width)
            return ExpertView(
                shared.gate.weight[own], shared.up.weight[own], shared.down.weight[:, own]
            )

        return ExpertViews(self.n_shared, view)

    @torch.no_grad()
    def count(self, x: Tensor) -> Tensor:
        """The load (E,) that the tokens in `x` (..., dim) make; calls no submodule, so no hook."""
        rows, router = x.flatten(0, -2), self.router
        logits = router(rows) if foreign(router) else F.linear(rows, router.weight)
        return route(logits, self.router_bias, self.topk).load

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, dim) -> (B, S, dim)."""
        return self.routed(x)[0]

    def routed(
        self,
        x: Tensor,
        active: Tensor | None = None,
        *,
        dense: bool = False,
        plus: Tensor | None = None,
        router: Tensor | None = None,
        stacks: Stacks | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The layer's output and its load (E,) int64.

        Args:
            x: (B, S, dim).
            active: (B, S) boolean; other positions are skipped, not counted, and give zeros.
            dense: Compute every position all the same.
            plus: (B, S, dim) to add, where every position is active; overwritten where no
                gradient is asked for.
            router: (E, dim), a weight to route by in place of the layer's own.
            stacks: The layer's experts, where another copy of them is to be read.
        """
        if active is None:
            given = None if plus is None else plus.flatten(0, -2)
            y, _, load = self._rows(x.flatten(0, -2), given, router, stacks)
            return y.view(x.shape), load
        if dense or traced() or x.is_cuda:  # no shape depends on values
            y, ids, _ = self._rows(x.flatten(0, -2), None, router, stacks)
            counted = active.flatten().repeat_interleave(self.topk).to(torch.int64)
            load = torch.zeros_like(self.load).scatter_add(0, ids.flatten(), counted)
            return y.view(x.shape) * active.unsqueeze(-1), load
        y, _, load = self._rows(x[active], None, router, stacks)
        return torch.zeros_like(x).masked_scatter(active.unsqueeze(-1), y), load

    def _rows(
        self,
        rows: Tensor,
        plus: Tensor | None,
        router: Tensor | None,
        stacks: Stacks | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, dim) -> (N, dim), with the experts (N, k) of the rows and the load (E,)."""
        shared = plus if self.shared is None else self.shared(rows, plus, spare=True)
        logits = self.router(rows) if router is None else F.linear(rows, router)
        stacks = stacks or Stacks(self.gate_up, self.down)
        few = self.together and few_rows(rows, *stacks, most=EXPERT_ROWS)
        if few and self.experts_backend == "auto":
            return moe_few(rows, logits, self.router_bias, self.topk, *stacks, shared)
        routing = route(logits, self.router_bias, self.topk)
        return self._mix(rows, routing, shared, stacks), routing.ids, routing.load

    def _mix(self, rows: Tensor, routing: Routing, plus: Tensor | None, stacks: Stacks) -> Tensor:
        """What the routed experts say to rows (N, dim), weighed and summed, and `plus`."""
        return run_experts(
            rows,
            routing.ids,
            routing.weights,
            *stacks,
            self.experts_backend,
            routing.plan,
            plus,
        )

    @torch.no_grad()
    def update_bias(self, step_size: float | Tensor) -> Tensor:
        """Step the bias by the load gathered since the last call, forget the load and return it."""
        load = self.load.clone()
        self.router_bias.copy_(step_bias(self.router_bias, load, step_size))
        self.load.zero_()
        return load
