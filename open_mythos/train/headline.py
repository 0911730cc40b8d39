"""A step in one line: the numbers that are worth a glance, as many as there is room for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from open_mythos.train.records import StepRecord


GAP = "  "
GIB = 2**30


class Word(NamedTuple):
    """A part of the line.

    Attributes:
        rank: What must go goes by rank, the highest first; the order of the line is another.
        text: What is shown.
    """

    rank: int
    text: str


def fitted(words: Sequence[Word], width: int) -> str:
    """The words in their order, without those of the highest ranks if the width asks for it."""
    kept = list(words)
    while len(kept) > 1 and len(GAP.join(word.text for word in kept)) > width:
        kept.remove(max(kept, key=lambda word: word.rank))
    return GAP.join(word.text for word in kept)[:width]


def headline(record: StepRecord) -> list[Word]:
    """The numbers of a step, or of the mean of some, in the order of the line."""
    given = record.n_loops if record.given_loops is None else record.given_loops
    used = f" (used {record.mean_loops:.1f})" if record.mean_loops < given - 0.05 else ""
    words = [
        Word(0, f"loss {record.loss:.3f}"),
        Word(10, f"acc {record.accuracy:.3f}"),
        Word(4, f"lr {power(record.lr)}"),
        Word(5, f"grad {record.grad_norm:.2f}"),
        Word(1, f"{record.tokens_per_second:,.0f} tok/s"),
    ]
    if record.mfu is not None:
        words.append(Word(6, f"MFU {100 * record.mfu:.1f}%"))
    elif record.flops_per_second is not None:
        words.append(Word(9, f"{scaled(record.flops_per_second)}FLOP/s"))
    if record.memory is not None:
        words.append(Word(7, f"{record.memory / GIB:.1f} GiB"))
    words.append(Word(3, f"loops {given:.1f}{used}"))
    if record.rho_a is not None:
        words.append(Word(8, f"rho {record.rho_a:.3f}"))
    if record.router_dead:
        words.append(Word(2, f"{record.router_dead} dead experts"))
    if record.scored_share is not None and record.scored_share < 0.995:
        words.append(Word(11, f"scored {100 * record.scored_share:.0f}%"))
    if record.level:
        words.append(Word(2, f"level {record.level}"))
    if record.epoch is not None:
        words.append(Word(12, f"epoch {record.epoch:.2f}"))
    return words


def mean_of(records: Sequence[StepRecord]) -> StepRecord:
    """The last of some steps, with loss, accuracy and loops as their mean and rates as in all.

    Single steps of small batches and drawn depths jump too much to be read. What was skipped has
    no say in the loss.
    """
    last = records[-1]
    sound = [r for r in records if not r.skipped] or [last]
    seconds = [r.seconds or 1.0 for r in records]

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    def over_time(values: Sequence[float | None]) -> float | None:
        known = [(v, s) for v, s in zip(values, seconds, strict=True) if v is not None]
        return sum(v * s for v, s in known) / sum(s for _, s in known) if known else None

    given = [float(r.n_loops) if r.given_loops is None else r.given_loops for r in records]
    return replace(
        last,
        loss=mean([r.loss for r in sound]),
        accuracy=mean([r.accuracy for r in sound]),
        given_loops=mean(given),
        mean_loops=mean([r.mean_loops for r in records]),
        tokens_per_second=over_time([r.tokens_per_second for r in records]) or 0.0,
        flops_per_second=over_time([r.flops_per_second for r in records]),
        mfu=over_time([r.mfu for r in records]),
        memory=max((r.memory for r in records if r.memory is not None), default=None),
    )


def bar(done: float, width: int) -> str:
    """How far a run is, from 0 to 1, as a line of so many characters."""
    filled = round(min(max(done, 0.0), 1.0) * width)
    return "\u2501" * filled + "\u2500" * (width - filled)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03; days before them where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    before = f"{days}d " if days else ""
    return f"{before}{hours}:{minutes:02}:{rest:02}"


def power(value: float) -> str:
    """A number over many orders of magnitude, in few characters: 3.00e-4."""
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def scaled(value: float) -> str:
    """A large number with the prefix of its thousands: 1.23 T."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.2f} {prefix}"
    return f"{value:.0f} "
