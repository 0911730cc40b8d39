"""Working: the copy of a network that computes in 16 bits, beside its float32 masters."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from open_mythos.train.loss_scale import LossScale
from open_mythos.train.recipe import Precision


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(precision: Precision, device: torch.device) -> Precision:
    """What "auto" means on a device: bf16 where it has it, else fp16 on CUDA, else fp32."""
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


class Working:
    """The network that runs forward and backward; the masters are learnt, saved and resumed.

    With "bf16" it is a copy in bfloat16: products, activations and gradients are narrow, while
    every update is made in float32 on the masters, whose rounded values the copy then takes over.
    There is no autocast: each tensor has one dtype, and a compiled graph sees no casts of weights.
    With "fp16" it is a copy in float16, which has so few exponents that the loss must be scaled:
    `scale` before each backward pass, `unscale` after the last `collect`, `settle` after the step.
    With "fp32" it is the master itself. Buffers are shared, so that expert loads and the router's
    bias exist once.

    Attributes:
        model: What runs.
        precision: What it computes in; never "auto".
        loss_scale: Of "fp16"; otherwise None.
    """

    def __init__(self, master: nn.Module, precision: Precision = "fp32") -> None:
        """Copy `master` if `precision` is not its own."""
        self.master = self.model = master
        device = next((p.device for p in master.parameters()), torch.device("cpu"))
        self.precision = resolve(precision, device)
        self.loss_scale = LossScale.start(device) if self.precision == "fp16" else None
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        if self.precision in DTYPES:
            self.model = copy.deepcopy(master).to(DTYPES[self.precision])
            _share_buffers(master, self.model)
            self._pairs = list(zip(master.parameters(), self.model.parameters(), strict=True))

    def scale(self, loss: Tensor) -> Tensor:
        """What to differentiate in the place of `loss`, a float32 scalar."""
        return loss if self.loss_scale is None else loss * self.loss_scale.scale

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

    def unscale(self) -> None:
        """Divide the masters' gradients by what `scale` multiplied them with; once a step."""
        grads = [p.grad for p in self.master.parameters() if p.grad is not None]
        if self.loss_scale is not None and grads:
            torch._foreach_mul_(grads, self.loss_scale.scale.reciprocal())

    def settle(self, finite: Tensor) -> None:
        """Let the loss scale answer whether the step's gradients were finite, on the device."""
        if self.loss_scale is not None:
            self.loss_scale.settle(finite)

    @torch.no_grad()
    def refresh(self) -> None:
        """Give the copy the masters' values, rounded."""
        if self._pairs:
            masters: list[Any] = [m for m, _ in self._pairs]
            torch._foreach_copy_([c for _, c in self._pairs], masters)


def _share_buffers(source: nn.Module, target: nn.Module) -> None:
    for (_, theirs), (_, own) in zip(source.named_modules(), target.named_modules(), strict=True):
        own._buffers.update(theirs._buffers)
