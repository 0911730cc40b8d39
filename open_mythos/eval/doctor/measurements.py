"""Measurements: everything that is known of a loop before anything is said of it."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from open_mythos.data.batch import IGNORE
from open_mythos.eval.doctor.jacobian import Jacobian, loop_jacobian
from open_mythos.eval.doctor.subject import AHEAD, Subject
from open_mythos.eval.doctor.trajectory import period, relative, residuals, rms, sizes
from open_mythos.eval.doctor.walk import Walk, walk
from open_mythos.eval.halting import LoopUse, loop_use
from open_mythos.eval.loop_curve import LoopCurve, LoopPoint
from open_mythos.eval.perplexity import score
from open_mythos.model.mythos import OpenMythos
from open_mythos.train.records import finite


# Fewest loops that are watched: below this no cycle could be told from a fixed point.
LEAST = 8


@dataclass(frozen=True)
class Starts:
    """Two passes from two starting states: the model's own, and random numbers of the same size.

    Attributes:
        distance: Of their last states, over the size of the model's own.
        agreement: Share of the scored positions at which both predict the same token.
    """

    distance: float
    agreement: float


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What was seen of a model; whoever judges it needs nothing else.

    Attributes:
        subject: What it was examined on.
        trained: Loops of the trained depth.
        loops: Loops that were watched, four times as many or more.
        tied: Whether the curve's questions grow harder with its loops.
        varied: Whether training drew its depths; None where nobody knows.
        injection: The injection's name.
        carry: Spectral radius of what it carries over linearly; None where it has none.
        jacobian: Of the last trained loop; None where its state is not finite.
        sizes: Root mean square of the state after each loop.
        residuals: |h_t - h_{t-1}| / |h_t| of each loop.
        moved: Distance of the state after all loops from that at the trained depth, over the size
            of the latter.
        period: Loops after which the state repeats: 1 at a fixed point, None if it does not.
        starts: How much the starting state matters after all loops.
        halts: Whether halting plays a part.
        use: Halting and experts' load, loop by loop.
        experts: Experts of one layer, 0 for a dense core.
        per_token: Experts that a token visits.
        curve: Score against loops.
    """

    subject: str
    trained: int
    loops: int
    tied: bool
    varied: bool | None
    injection: str
    carry: float | None
    jacobian: Jacobian | None
    sizes: tuple[float, ...]
    residuals: tuple[float, ...]
    moved: float
    period: int | None
    starts: Starts
    halts: bool
    use: LoopUse
    experts: int
    per_token: int
    curve: LoopCurve

    @property
    def growth(self) -> float:
        """Size of the state after all loops over that at the trained depth."""
        now, then = self.sizes[-1], self.sizes[self.trained - 1]
        return now / then if then else 1.0

    @property
    def histogram(self) -> tuple[float, ...]:
        """Share of the positions that took part in exactly 1, 2, ... loops."""
        return tuple(b - a for a, b in pairwise((0.0, *self.use.halted_by)))

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite is None."""
        parts = {"use": self.use.to_json(), "curve": self.curve.to_json(), "growth": self.growth}
        if self.jacobian is not None:
            parts["jacobian"] = {**asdict(self.jacobian), "radius": self.jacobian.radius}
        plain: dict[str, Any] = finite({**asdict(self), **parts})
        return plain


def examine(model: OpenMythos, subject: Subject) -> Measurements:
    """Take every measurement of a model; it is left as it was."""
    total = max(LEAST, AHEAD[-1] * subject.trained)
    own = walk(model, subject.probe, total)
    cfg, finite_there = model.cfg, bool(torch.isfinite(own.states[subject.trained]).all())
    return Measurements(
        subject=subject.name,
        trained=subject.trained,
        loops=total,
        tied=subject.tied,
        varied=subject.varied,
        injection=cfg.injection,
        carry=carry(model),
        jacobian=loop_jacobian(model, subject.probe, subject.trained) if finite_there else None,
        sizes=sizes(own.states),
        residuals=residuals(own.states),
        moved=relative(own.states[subject.trained], own.states[-1]),
        period=period(own.states),
        starts=starts(model, subject, own),
        halts=own.output.halting is not None,
        use=loop_use(model, [subject.probe], total),
        experts=cfg.n_experts if own.output.router_load.shape[-1] else 0,
        per_token=cfg.n_experts_per_tok,
        curve=scores(model, subject),
    )


def carry(model: OpenMythos) -> float | None:
    """Spectral radius of the linear part of the state update; None where there is none."""
    radius: Any = getattr(model.recurrent.injection, "spectral_radius", None)
    return None if radius is None else float(radius())


def starts(model: OpenMythos, subject: Subject, own: Walk) -> Starts:
    """Walk the probe again from a random state, and compare."""

    def random(h: Tensor) -> Tensor:
        draws = torch.randn(h.shape, generator=torch.Generator().manual_seed(0))
        return (draws * (rms(h) or 1.0)).to(h)

    other = walk(model, subject.probe, len(own.turns), random)
    scored = subject.probe.targets != IGNORE
    picks = [w.output.logits.argmax(-1).cpu()[scored] for w in (own, other)]
    agreement = (picks[0] == picks[1]).double().mean()
    return Starts(relative(own.states[-1], other.states[-1]), float(agreement))


def scores(model: OpenMythos, subject: Subject) -> LoopCurve:
    """The score of every number of loops on what it is meant for."""
    points = []
    for loops, batches in sorted(subject.scored.items()):
        found = score(model, batches, loops)
        points.append(LoopPoint(loops, found.loss, found.accuracy, found.n_targets))
    return LoopCurve(subject.name, tuple(points))
