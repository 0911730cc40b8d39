"""What exits save and cost in pictures, and on a page."""

from collections.abc import Sequence

from open_mythos.eval.calibration import Calibration, Trade
from open_mythos.report.exit_table import exit_rows, overthinking_words
from open_mythos.report.figures import COLOURS, Figure, empty_axes
from open_mythos.report.page import Section, render_page


def exit_figure(found: Calibration) -> Figure:
    """Score against mean loops of every exit, its verified threshold marked.

    Scores are over that of the full depth on the same rows: lines and dots are of different ones.
    """
    figure, axes = empty_axes(6.4, 4.0)
    for number, (name, one) in enumerate(found.exits.items()):
        colour = COLOURS[number % len(COLOURS)]
        style = "-" if number < len(COLOURS) else "--"
        loops = [trade.mean_loops for trade in one.curve]
        scores = [relative(trade, found.metric) for trade in one.curve]
        axes.plot(loops, scores, style, color=colour, linewidth=1.2, label=name)
        if one.verified is not None:
            kept = one.verified
            at = [relative(kept, found.metric)]
            axes.plot([kept.mean_loops], at, "o", color=colour, markersize=5)
    oracle = found.oracle
    at = [relative(oracle, found.metric)]
    axes.plot([oracle.mean_loops], at, "k*", markersize=9, label="oracle")
    worse = 1.0 + found.budget if found.metric == "loss" else 1.0 - found.budget
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.axhline(worse, color="grey", linewidth=0.8, linestyle="--", label="budget")
    axes.set_xlabel("mean loops per position")
    axes.set_ylabel(f"{found.metric} over that of full depth")
    axes.legend(frameon=False, fontsize=8)
    return figure


def relative(trade: Trade, metric: str) -> float:
    """The score over that of the full depth on the same rows."""
    return 1.0 + trade.cost if metric == "loss" else 1.0 - trade.cost


def overthinking_figure(found: Calibration) -> Figure:
    """Accuracy by loop, and what each loop mends and breaks."""
    figure, axes = empty_axes(6.4, 3.4)
    over = found.overthinking
    loops = range(1, len(over.accuracy) + 1)
    axes.plot(loops, over.accuracy, marker="o", markersize=3, color=COLOURS[0], label="right")
    axes.plot(loops[1:], over.mended, color=COLOURS[2], label="mended by this loop")
    axes.plot(loops[1:], over.broken, color=COLOURS[1], label="broken by this loop")
    axes.set_xlabel("loop")
    axes.set_ylabel("share of scored positions")
    axes.legend(frameon=False, fontsize=8)
    return figure


def exit_page(found: Calibration, title: str, lead: Sequence[str]) -> str:
    """One self-contained HTML page."""
    sections = [
        Section(
            title="Exits",
            paragraphs=lead,
            figures=[("Score against mean loops on the part that thresholds were fitted on; dots "
                      "are real passes over the other part.", exit_figure(found))],
            table=exit_rows(found),
        ),
        Section(
            title="Overthinking",
            paragraphs=overthinking_words(found),
            figures=[("What each loop does to answers.", overthinking_figure(found))],
        ),
    ]  # fmt: skip
    return render_page(title, "Where positions may leave the loop, and what it costs.", sections)
