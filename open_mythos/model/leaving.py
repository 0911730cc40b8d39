"""From what a caller says of exits to how positions leave the loop, checked once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from open_mythos.checkpoint.exit_file import StoredExit
from open_mythos.errors import InputError
from open_mythos.nn.loop.exiting import Leave
from open_mythos.nn.loop.exits.criterion import Exit
from open_mythos.nn.loop.exits.predictions import Oracle
from open_mythos.nn.loop.exits.registry import CALIBRATED, as_exit
from open_mythos.nn.loop.halting import ACTHalting
from open_mythos.nn.loop.per_row import RowLoops


if TYPE_CHECKING:
    from open_mythos.model.mythos import OpenMythos


@dataclass(frozen=True)
class Foresight:
    """What the model would say of a state of the loop, past the coda: its last norm and head.

    Attributes:
        norm: The last norm.
        head: Features to logits.
    """

    norm: nn.Module
    head: nn.Module

    def __call__(self, h: Tensor) -> Tensor:
        """Log-probabilities (B, S, vocab) of states (B, S, dim), in float32 or wider."""
        logits: Tensor = self.head(self.norm(h))
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        return logits.to(wide).log_softmax(-1)


def leaving(given: object, model: "OpenMythos", n_loops: int | RowLoops) -> Leave | None:
    """How positions leave the loop in one pass; None where no exit is given.

    Args:
        given: A name, an `Exit`, or an object with `done(seen)`.
        model: The network.
        n_loops: Loops of the pass.

    Raises:
        InputError: If it is no exit, nothing was calibrated, nobody trained the gate that it asks
            for, or the pass is a training one.
        ConfigError: If its name or its threshold is wrong.
    """
    if given is None:
        return None
    rule = resolve_exit(given, model.calibrated)
    if model.training and torch.is_grad_enabled():
        raise InputError(
            f"exit {named(rule)} was given in training mode with gradients; exits are for "
            "inference: call model.eval(), or use torch.no_grad()"
        )
    if rule.gated and model.cfg.readout == "last" and untrained(model.recurrent.act):
        raise InputError(
            f"exit {named(rule)} needs a gate, and nobody trained this model's: its readout is "
            "'last'. Train with objective.gate_entropy, or with readout 'act' or 'act_last', or "
            "take an exit without a gate"
        )
    if isinstance(rule, Oracle) and not isinstance(n_loops, int):
        raise InputError("exit 'oracle' needs one n_loops for all rows; give one int")
    foresight = Foresight(model.norm, model.head)
    return Leave(rule, foresight, model.recurrent.injection.gathered)


def resolve_exit(given: object, stored: StoredExit | None) -> Exit:
    """The exit that a caller means; "calibrated" is the one stored beside the model.

    Raises:
        InputError: If it is none, or nothing is stored.
        ConfigError: If its name or threshold is wrong.
    """
    if given != CALIBRATED:
        return as_exit(given)
    if stored is None:
        raise InputError(
            "exit is 'calibrated', but nothing was calibrated for this model, or its weights have "
            "changed since; run `open-mythos calibrate FOLDER` and load it anew, or name an exit"
        )
    return stored.exit


def untrained(gate: ACTHalting) -> bool:
    """Whether a gate is as it started: its bias is exactly zero, from which any step moves it."""
    return not bool(gate.halt.bias.any())


def named(rule: Exit) -> str:
    """An exit for people."""
    name = getattr(rule, "name", type(rule).__name__)
    return repr(str(name))
