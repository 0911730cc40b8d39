"""Refusals: points that cannot fix a law's constants, told before and after the fit."""

import numpy as np

from open_mythos.errors import InputError
from open_mythos.laws.law import Array, Law
from open_mythos.laws.points import PARTS, Points


# Of the largest singular value: below it, a direction of the constants moves no prediction.
RANK = 1e-7
# Nats: a term that contributes less nowhere is not there.
NOTHING = 1e-6


def check_points(law: Law, points: Points) -> None:
    """Refuse what no fit could make sense of.

    Raises:
        InputError: If there are too few points, too few different ones, an input that never
            changes, or losses that are all equal.
    """
    name, count, wanted = points.name, len(points), len(law.constants)
    if count <= wanted:
        raise InputError(
            f"{name} has {count} points; {law.equation} has {wanted} constants, so at least "
            f"{wanted + 1} are needed, of which the last says how well it fits"
        )
    for column in law.inputs:
        if column in PARTS:  # the loops alone vary the effective size
            continue
        values = np.unique(points.inputs[column])
        if len(values) == 1:
            raise InputError(
                f"{name} has one value of {column}, {values[0]:g}; {law.equation} says how the "
                f"loss changes with it, so measure at several"
            )
    different = np.unique(np.stack([points.inputs[c] for c in law.inputs]), axis=1).shape[1]
    if different < wanted:
        raise InputError(
            f"{name} has {count} points at {different} different {' and '.join(law.inputs)}; "
            f"{wanted} are needed for the {wanted} constants of {law.equation}"
        )
    if np.ptp(points.loss) <= NOTHING:
        raise InputError(f"all {count} losses of {name} are {points.loss[0]:g}; nothing changes")


def check_fit(law: Law, points: Points, amplitudes: Array, jacobian: Array) -> None:
    """Refuse constants that the points leave open.

    Args:
        law: The law.
        points: What it was fitted to.
        amplitudes: The largest contribution of each term, in nats.
        jacobian: (points, constants), change of log loss with each constant.

    Raises:
        InputError: If a term vanished, so that its other constants mean nothing, or some
            constants can be changed together without moving any prediction.
    """
    for amplitude, name in zip(amplitudes[1:], law.amplitudes[1:], strict=True):
        if amplitude <= NOTHING:
            raise InputError(
                f"the best fit to {points.name} has {name} = 0: its loss does not fall as "
                f"{law.equation} says, so the term's other constants are left open"
            )
    scaled = jacobian / np.maximum(np.linalg.norm(jacobian, axis=0), np.finfo(float).tiny)
    _, singular, directions = np.linalg.svd(scaled, full_matrices=False)
    if singular[-1] <= RANK * singular[0]:
        moved = np.abs(directions[-1])
        free = [n for n, m in zip(law.constants, moved, strict=True) if m > 0.1 * moved.max()]
        raise InputError(
            f"the points of {points.name} cannot tell {', '.join(free)} of {law.equation} apart; "
            f"vary {', '.join(law.inputs)} independently of each other"
        )
