"""AdamW with parameter groups by role: what a tensor does decides how it is regularised."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from open_mythos.train.recipe import OptimConfig


Role = Literal["matrix", "stack", "embedding", "vector"]
ROLES: tuple[Role, ...] = ("matrix", "stack", "embedding", "vector")


def role(name: str, parameter: Tensor, embeddings: Iterable[str] = ()) -> Role:
    """What a parameter is to the optimizer.

    "vector": norms, biases, and the injection's log_A, log_dt and B, whatever their shape: decay
    would pull them to values that mean something else than 'less' (A towards exp(-1)).
    "embedding": a table of rows. "stack": the matrices of many experts in one tensor.
    """
    if name in embeddings:
        return "embedding"
    if parameter.ndim < 2 or "injection" in name.split("."):
        return "vector"
    return "stack" if parameter.ndim > 2 else "matrix"


def embedding_names(model: nn.Module) -> set[str]:
    """Names of the parameters that are embedding tables, as named_parameters gives them."""
    return {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    }


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """One group per role that occurs, each trainable parameter in exactly one, names included."""
    tables = embedding_names(model)
    members: dict[Role, list[tuple[str, nn.Parameter]]] = {r: [] for r in ROLES}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[role(name, parameter, tables)].append((name, parameter))
    decayed = {"matrix", "stack"} | ({"embedding"} if config.decay_embeddings else set())
    return [
        {
            "params": members[r],
            "role": r,
            "weight_decay": config.weight_decay if r in decayed else 0.0,
        }
        for r in ROLES
        if members[r]
    ]


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """AdamW over the model's groups, fused: one kernel, which can skip a step by itself."""
    return AdamW(
        parameter_groups(model, config),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every group the rate of this step; the rate is the schedule's, never state."""
    for group in optimizer.param_groups:
        group["lr"] = lr


@contextmanager
def skip_unless(optimizer: Optimizer, finite: Tensor) -> Iterator[None]:
    """Let a fused optimizer's step move nothing, moments and counts included, if `finite` is False.

    The flag stays on the device: the kernels of torch's fused optimizers read it themselves, as
    they do for gradient scaling.
    """
    assert optimizer.defaults["fused"]
    optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients to a norm of at most `limit` (0 leaves them); the norm before that."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm
