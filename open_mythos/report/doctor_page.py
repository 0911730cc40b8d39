"""What the doctor found, as a page: findings first, then what was measured, as pictures."""

from collections.abc import Sequence

from open_mythos.eval.doctor.findings import Finding
from open_mythos.eval.doctor.measurements import Measurements
from open_mythos.eval.doctor.summary import SOUND, numbers, verdict
from open_mythos.report.figures import (
    Figure,
    experts_figure,
    histogram_figure,
    loops_figure,
    marks_figure,
)
from open_mythos.report.page import Section, render_page


def doctor_page(name: str, m: Measurements, findings: Sequence[Finding]) -> str:
    """The page as HTML.

    Args:
        name: What was examined.
        m: What was measured.
        findings: What was found, in order.
    """
    sections = [_found(findings), _states(m), _depth(m), _experts(m), _halting(m)]
    return render_page(
        f"open_mythos doctor: {name}",
        verdict(findings),
        [section for section in sections if section is not None],
    )


def _found(findings: Sequence[Finding]) -> Section:
    if not findings:
        return Section("Findings", [SOUND])
    rows = [[f.severity, f.kind, f.says, f.helps] for f in findings]
    return Section("Findings", table=[["severity", "finding", "what is so", "what helps"], *rows])


def _states(m: Measurements) -> Section:
    return Section(
        "The state",
        [
            "A loop that settles has a bounded state, a residual that falls, and a Jacobian of "
            "radius below one. A task of steps may want none of the last two.",
        ],
        [
            ("Root mean square of the state", loops_figure(m.sizes, m.trained, "state rms")),
            (
                "What a loop changes, as a share of the state",
                loops_figure(m.residuals, m.trained, "residual"),
            ),
        ],
        [["measured", "value"], *map(list, numbers(m))],
    )


def _depth(m: Measurements) -> Section:
    losses = [(p.n_loops, p.loss) for p in m.curve.points]
    shares = [(p.n_loops, p.accuracy) for p in m.curve.points]
    note = (
        "Questions are harder where loops are more."
        if m.tied
        else "The same targets at every depth."
    )
    return Section(
        "Score against loops",
        [note],
        [
            ("Loss", _marks(losses, m, "loss", 0.2)),
            ("Accuracy", _marks(shares, m, "accuracy", 0.1)),
        ],
    )


def _marks(points: list[tuple[int, float]], m: Measurements, y: str, least: float) -> Figure:
    """A line over at least so much of the axis: a plateau is not to look like a mountain."""
    figure = marks_figure({m.subject: points}, m.trained, "loops", y)
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    more = max(least - (high - low), 0.0) / 2
    axes.set_ylim(low - more, high + more)
    return figure


def _experts(m: Measurements) -> Section | None:
    if not m.experts:
        return None
    return Section(
        "Experts",
        ["Each row is a loop; a row sums to one."],
        [("Share of each loop's tokens by expert", experts_figure(m.use))],
    )


def _halting(m: Measurements) -> Section | None:
    if not m.halts:
        return None
    return Section(
        "Halting",
        [f"A position takes part in {m.use.mean_loops:.2f} loops on average."],
        [("Loops until a position halts", histogram_figure(m.histogram, m.trained))],
    )
