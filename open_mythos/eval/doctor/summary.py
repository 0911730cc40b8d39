"""Measurements and findings in a few words, for a terminal and for a page."""

from collections.abc import Sequence

from open_mythos.eval.doctor.curve_shape import curve_shape
from open_mythos.eval.doctor.findings import SOME_LOST, Finding
from open_mythos.eval.doctor.measurements import Measurements


SOUND = "No fault was found."


def verdict(findings: Sequence[Finding]) -> str:
    """The findings in one line."""
    faults = [finding.kind for finding in findings if finding.severity == "fault"]
    warnings = [finding.kind for finding in findings if finding.severity == "warning"]
    said = f"Faults: {', '.join(faults)}." if faults else SOUND
    return f"{said} Warnings: {', '.join(warnings)}." if warnings else said


def numbers(m: Measurements) -> list[tuple[str, str]]:
    """What was measured and is one number, with its name."""
    rows = [
        ("examined on", m.subject),
        ("trained depth, loops watched", f"{m.trained}, {m.loops}"),
        ("injection", m.injection),
        ("rho(A) of its linear carry", "none" if m.carry is None else f"{m.carry:.4f}"),
    ]
    if m.jacobian is not None:
        how = "eigenvalues" if m.jacobian.exact else "growth of a change, a few per cent off"
        rows += [
            (f"radius of the loop's Jacobian ({how})", f"{m.jacobian.radius:.4f}"),
            ("its largest singular value", f"{m.jacobian.stretch:.3f}"),
        ]
    trained, last = m.trained - 1, m.loops - 1
    repeats = {None: "no", 1: "it stands still"}.get(m.period, f"after {m.period} loops")
    return [
        *rows,
        ("state size at the trained depth, at the end", _both(m.sizes[trained], m.sizes[last])),
        (
            "residual at the trained depth, at the end",
            _both(m.residuals[trained], m.residuals[last]),
        ),
        ("moved since the trained depth", f"{m.moved:.1%}"),
        ("the state repeats", repeats),
        ("from a random start: same predictions", f"{m.starts.agreement:.1%}"),
        ("from a random start: distance of the states", f"{m.starts.distance:.1%}"),
        ("loss against loops", _shape(m)),
    ]


def _both(one: float, two: float) -> str:
    """Two numbers of one kind."""
    return f"{one:.3g}, {two:.3g}"


def _shape(m: Measurements) -> str:
    shown = ", ".join(f"{p.n_loops}: {p.loss:.3f}" for p in m.curve.points)
    harder = " (harder questions with more loops)"
    return shown + (harder if m.tied else f" ({curve_shape(m.curve, m.trained, SOME_LOST)})")
