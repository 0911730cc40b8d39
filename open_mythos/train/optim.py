"""The optimizers, with parameter groups by role: what a tensor does decides how it is moved."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from open_mythos.nn.fused import FusedLinear
from open_mythos.nn.moe.layer import MoEFFN
from open_mythos.parallel.division import canonical
from open_mythos.train.muon import Cut, Muon
from open_mythos.train.recipe import OptimConfig


Role = Literal["matrix", "stack", "embedding", "vector"]
ROLES: tuple[Role, ...] = ("matrix", "stack", "embedding", "vector")


def role(name: str, parameter: Tensor, embeddings: Iterable[str] = ()) -> Role:
    """What a parameter is to the optimizer.

    "vector": norms, biases, and the injection's log_A, log_dt, B and connections, whatever their
    shape: decay would pull them to values that mean something else than 'less' (A towards exp(-1)).
    "embedding": a table of rows. "stack": the matrices of many experts in one tensor.
    """
    if name in embeddings:
        return "embedding"
    parts = name.split(".")
    if parameter.ndim < 2 or ("injection" in parts and parts[-1] != "weight"):
        return "vector"
    return "stack" if parameter.ndim > 2 else "matrix"


def embedding_names(model: nn.Module) -> set[str]:
    """Names of the parameters that are embedding tables, as named_parameters gives them."""
    return {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    }


def fused_cuts(model: nn.Module) -> dict[str, Cut]:
    """Parameters that hold several maps of one input side by side, and where each lies."""
    cuts = {}
    for name, module in model.named_modules():
        at = f"{name}." if name else ""
        if isinstance(module, FusedLinear):
            cuts[f"{at}weight"] = Cut(0, tuple(module.parts.values()))
        elif isinstance(module, MoEFFN):
            cuts[f"{at}gate_up"] = Cut(-1, (module.cfg.expert_dim,) * 2)
    return cuts


def orthogonal(name: str, parameter: Tensor, kind: Role) -> bool:
    """Whether Muon may move a parameter: a map between hidden widths, or a stack of such.

    The router's and the head's rows are one expert's or one word's each, as an embedding's are,
    and a matrix of a single row (the halting logit's) is a vector.
    """
    maps = kind in ("matrix", "stack") and min(parameter.shape[-2:]) > 1
    return maps and not {"router", "routers", "head"} & set(name.split("."))


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """One group per role that occurs, each trainable parameter in exactly one, names included.

    With kind "muon", what it moves comes first, in groups by role and cut that carry "rate": their
    learning rate over optim.lr.
    """
    tables, cuts = embedding_names(model), fused_cuts(model)
    members: dict[Role, list[tuple[str, nn.Parameter]]] = {r: [] for r in ROLES}
    turned: dict[tuple[Role, Cut | None], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = role(name, parameter, tables)
        if config.kind == "muon" and orthogonal(name, parameter, kind):
            turned.setdefault((kind, cuts.get(canonical(name))), []).append((name, parameter))
        else:
            members[kind].append((name, parameter))
    decayed = {"matrix", "stack"} | ({"embedding"} if config.decay_embeddings else set())
    decay = {r: config.weight_decay if r in decayed else 0.0 for r in ROLES}
    rate = (config.muon_lr or config.lr) / config.lr
    return [
        {"params": found, "role": r, "weight_decay": decay[r], "cut": cut, "rate": rate}
        for (r, cut), found in turned.items()
    ] + [{"params": members[r], "role": r, "weight_decay": decay[r]} for r in ROLES if members[r]]


class MuonAdamW(Optimizer):
    """Muon for the matrices and AdamW for the rest, as one optimizer: its groups are theirs.

    Attributes:
        halves: The two; their groups and states are this one's own.
    """

    def __init__(self, muon: Muon, adamw: Optimizer) -> None:
        """Put two optimizers over different parameters together; step them through this alone."""
        self.halves = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over groups and states, as load_state_dict does, in both halves too."""
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        muon, adamw = self.halves
        count = len(muon.param_groups)
        muon.param_groups, adamw.param_groups = self.param_groups[:count], self.param_groups[count:]
        muon.state = adamw.state = self.state

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step both; gradients are there already."""
        assert closure is None
        for half in self.halves:
            half.step()


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """The recipe's optimizer over the model's groups.

    AdamW is fused: one kernel, which can skip a step by itself. Build it after the model is
    sharded, whose parameters are others.
    """
    groups = parameter_groups(model, config)
    turned = [group for group in groups if "rate" in group]
    adamw = AdamW(
        [group for group in groups if "rate" not in group],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )
    if not turned:
        return adamw
    return MuonAdamW(Muon(turned, lr=config.lr, momentum=config.muon_momentum), adamw)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every group the rate of this step; the rate is the schedule's, never state."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("rate", 1.0)


@contextmanager
def skip_unless(optimizer: Optimizer, finite: Tensor) -> Iterator[None]:
    """Let a step move nothing, moments and counts included, if `finite` is False.

    The flag stays on the device: the kernels of torch's fused optimizers read it themselves, as
    they do for gradient scaling, and so does Muon.
    """
    halves: Any = optimizer.halves if isinstance(optimizer, MuonAdamW) else (optimizer,)
    for half in halves:
        assert isinstance(half, Muon) or half.defaults["fused"]
        half.found_inf = (~finite).float()
    try:
        yield
    finally:
        for half in halves:
            del half.found_inf


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients to a norm of at most `limit` (0 leaves them); the norm before that.

    Of sharded gradients it is the norm of the whole ones, the same plain tensor on every rank.
    """
    alike: dict[Any, list[nn.Parameter]] = {}
    for p in model.parameters():
        if p.grad is not None:
            # What lies on different meshes (experts, and the rest) is in no one list of torch's.
            mesh = p.grad.device_mesh if isinstance(p.grad, DTensor) else None
            alike.setdefault(mesh, []).append(p)
    norms = [_norm(members) for members in alike.values()]
    norm = norms[0] if len(norms) == 1 else torch.nn.utils.get_total_norm(norms)
    if limit:
        for members in alike.values():
            torch.nn.utils.clip_grads_with_norm_(members, limit, norm)
    return norm


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
