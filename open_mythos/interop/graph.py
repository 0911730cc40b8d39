"""A forward pass with its loops fixed, as one graph that torch.export records and saves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from open_mythos.errors import InputError, MythosError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.attention.mla import MLAttention
from open_mythos.nn.loop.recurrent import check_loops
from open_mythos.nn.mode import evaluating
from open_mythos.nn.moe.layer import MoEFFN
from open_mythos.nn.watched import foreign


# How far a runtime's logits may lie from ours, in units of the largest logit where that exceeds 1.
TOLERANCE = 1e-4
# Shapes (batch, sequence) that a graph is tried at; none is the one that it was recorded at, and
# the longest stands for max_seq_len.
RECORDED = (2, 5)
TRIED = ((1, 1), (3, 2), (1, 64))
Runner = Callable[[Tensor], Tensor]


class FixedLoops(nn.Module):
    """ids (B, S) int64 -> logits (B, S, vocab), after so many loops and without a cache."""

    def __init__(self, model: OpenMythos, n_loops: int) -> None:
        """Run `model` with `n_loops` loops."""
        super().__init__()
        self.model, self.n_loops = model, n_loops

    def forward(self, ids: Tensor) -> Tensor:
        """The logits of the tokens that follow each position."""
        logits: Tensor = self.model(ids, self.n_loops)
        return logits


@dataclass(frozen=True)
class Checked:
    """How near a written graph came to the network that it was recorded from.

    Attributes:
        difference: Largest difference of two logits, over all shapes tried.
        scale: Largest logit, or 1 where that is larger.
    """

    difference: float
    scale: float

    @property
    def near(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= TOLERANCE * self.scale


def fixed_loops(model: OpenMythos, n_loops: int | None) -> FixedLoops:
    """The pass that is to be recorded, in evaluation mode.

    Args:
        model: On a CPU, of plain tensors.
        n_loops: Loops of every pass; None is the config's max_loop_iters.

    Raises:
        InputError: If the model is elsewhere, or its weights are quantised or adapted.
    """
    loops = check_loops(n_loops, model.cfg.max_loop_iters)
    device = model.embed.weight.device
    if device.type != "cpu":
        raise InputError(
            f"the model is on {device}, whose name a graph would keep; export model.cpu(), and "
            "move the graph where it runs"
        )
    for name, module in model.named_modules():
        if foreign(module):
            raise InputError(
                f"{name} is {type(module).__name__} of somebody else, with weights that a graph "
                "cannot hold (quantised, or an adapter); export the model without it"
            )
    return FixedLoops(model, loops).eval()


def record(model: OpenMythos, n_loops: int | None = None) -> ExportedProgram:
    """The graph of a pass of `n_loops` loops, its batch and sequence dynamic.

    The loops stand one after the other in the graph and share their weights. A mixture runs all
    experts on all tokens, weighed by zero where they were not chosen: which tokens go to an expert
    is a shape that depends on values, which no graph has.

    Raises:
        InputError: If the model is not a plain one on a CPU, or torch cannot record it, with what
            torch said.
    """
    wrapped = fixed_loops(model, n_loops)
    longest = model.cfg.max_seq_len
    batch, length = RECORDED
    ids = torch.zeros(batch, min(length, longest), dtype=torch.int64)
    shapes = {"ids": {0: Dim("batch"), 1: Dim("sequence", max=longest)}}
    with torch.no_grad(), evaluating(model), _plainly(model):
        try:
            return torch.export.export(wrapped, (ids,), dynamic_shapes=shapes, strict=False)
        except MythosError:
            raise
        except Exception as error:  # torch raises all kinds where it cannot record
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(f"torch.export cannot record this network: {said[0]}") from error


def export_graph(model: OpenMythos, path: str | Path, n_loops: int | None = None) -> Checked:
    """Write a pass of `n_loops` loops to a .pt2 file, read it again and compare.

    `torch.export.load(path).module()(ids)` gives the logits, with torch alone.

    Raises:
        InputError: If it cannot be recorded, or what was written computes something else.
    """
    program = record(model, n_loops)
    torch.export.save(program, Path(path))
    loaded: Any = torch.export.load(Path(path)).module()
    return checked(model, n_loops, loaded, str(path))


@torch.no_grad()
def checked(model: OpenMythos, n_loops: int | None, other: Runner, name: str) -> Checked:
    """Compare another runtime's logits with the model's own, at shapes that nobody recorded.

    Args:
        model: The network.
        n_loops: Loops of the pass.
        other: ids (B, S) to logits (B, S, vocab).
        name: What the error calls it.

    Raises:
        InputError: If they lie apart by more than `TOLERANCE`.
    """
    draw = torch.Generator().manual_seed(0)
    cfg, difference, scale = model.cfg, 0.0, 1.0
    for batch, length in TRIED:
        ids = torch.randint(cfg.vocab_size, (batch, min(length, cfg.max_seq_len)), generator=draw)
        with evaluating(model):
            ours = model(ids, n_loops).float()
        difference = max(difference, float((other(ids).float() - ours).abs().max()))
        scale = max(scale, float(ours.abs().max()))
    found = Checked(difference, scale)
    if not found.near:
        raise InputError(
            f"{name} was written, but its logits lie {difference:.2g} from the network's, whose "
            f"largest is {scale:.3g}; do not use it, and please report this config"
        )
    return found


@contextmanager
def _plainly(model: OpenMythos) -> Iterator[None]:
    """Choose the implementations that a graph can hold, for the time of a block."""
    mixtures = [m for m in model.modules() if isinstance(m, MoEFFN)]
    latent = [m for m in model.modules() if isinstance(m, MLAttention)]
    backends, forms = [m.experts_backend for m in mixtures], [m.form for m in latent]
    try:
        for mixture in mixtures:
            mixture.experts_backend = "dense"
        for layer in latent:  # "auto" would ask the length, which is not known yet
            layer.form = "expanded"
        yield
    finally:
        for mixture, backend in zip(mixtures, backends, strict=True):
            mixture.experts_backend = backend
        for layer, form in zip(latent, forms, strict=True):
            layer.form = form
