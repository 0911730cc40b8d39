"""What exits save and cost in a table and in sentences; needs no matplotlib."""

from open_mythos.eval.calibration import Calibrated, Calibration


def exit_rows(found: Calibration) -> list[list[str]]:
    """Header and one row per exit, the chosen one marked, the oracle last."""
    header = ["exit", "threshold", "loops", found.metric, "cost", "at most", "work", "ran"]
    rows = [_row(one, chosen=name == found.chosen) for name, one in found.exits.items()]
    oracle = found.oracle
    last = ["oracle", "", f"{oracle.mean_loops:.2f}", f"{oracle.score:.4f}"]
    return [header, *rows, [*last, f"{oracle.cost:+.2%}", "", "", ""]]


def _row(one: Calibrated, *, chosen: bool) -> list[str]:
    name = f"{one.name} <-" if chosen else one.name
    kept = one.verified
    if kept is None or one.work is None:
        return [name, "none keeps the budget", "", "", "", "", "", ""]
    return [
        name,
        f"{kept.threshold:.4g}",
        f"{kept.mean_loops:.2f}",
        f"{kept.score:.4f}",
        f"{kept.cost:+.2%}",
        f"{kept.bound:+.2%}",
        f"{one.work:.2f}",
        "" if one.ran is None else f"{one.ran:.2f}",
    ]


def overthinking_words(found: Calibration) -> list[str]:
    """What more loops did to right answers, in sentences."""
    over = found.overthinking
    if not over.broken:
        return [f"{over.right_at_end:.1%} of the answers are right after the only loop."]
    worst = max(range(len(over.broken)), key=over.broken.__getitem__)
    return [
        f"{over.right_somewhere:.1%} of the answers are right after some loop, "
        f"{over.right_at_end:.1%} after the last: {over.lost:.1%} are lost on the way.",
        f"Loop {worst + 2} breaks most, {over.broken[worst]:.1%} of all answers, and mends "
        f"{over.mended[worst]:.1%}.",
    ]
