"""Working: the copy of a network that computes in 16 bits, beside its float32 masters."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from open_mythos.train.recipe import Precision


class Working:
    """The network that runs forward and backward; the masters are learnt, saved and resumed.

    With "bf16" it is a copy in bfloat16: products, activations and gradients are narrow, while
    every update is made in float32 on the masters, whose rounded values the copy then takes over.
    There is no autocast: each tensor has one dtype, and a compiled graph sees no casts of weights.
    With "fp32" it is the master itself. Buffers are shared, so that expert loads and the router's
    bias exist once.

    Attributes:
        model: What runs.
    """

    def __init__(self, master: nn.Module, precision: Precision = "fp32") -> None:
        """Copy `master` if `precision` is not its own."""
        self.master = self.model = master
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        if precision == "bf16":
            self.model = copy.deepcopy(master).to(torch.bfloat16)
            _share_buffers(master, self.model)
            self._pairs = list(zip(master.parameters(), self.model.parameters(), strict=True))

    def collect(self) -> None:
        """Add the copy's gradients to the masters', in float32, and forget them."""
        found = [(m, c.grad) for m, c in self._pairs if c.grad is not None]
        fresh = [(m, grad) for m, grad in found if m.grad is None]
        known = [(m.grad, grad) for m, grad in found if m.grad is not None]
        if known:
            wide: list[Tensor] = [grad.float() for _, grad in known]
            torch._foreach_add_([total for total, _ in known], wide)
        if fresh:
            for master, _ in fresh:
                master.grad = torch.empty_like(master)
            totals: list[Tensor] = [m.grad for m, _ in fresh if m.grad is not None]
            torch._foreach_copy_(totals, [grad for _, grad in fresh])
        for _, mine in self._pairs:
            mine.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Give the copy the masters' values, rounded."""
        if self._pairs:
            masters: list[Any] = [m for m, _ in self._pairs]
            torch._foreach_copy_([c for _, c in self._pairs], masters)


def _share_buffers(source: nn.Module, target: nn.Module) -> None:
    for (_, theirs), (_, own) in zip(source.named_modules(), target.named_modules(), strict=True):
        own._buffers.update(theirs._buffers)
