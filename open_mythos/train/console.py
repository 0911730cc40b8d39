"""ConsoleSink: a live line on a terminal, plain lines everywhere else."""

import re
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from open_mythos.train.headline import GAP, Word, bar, clock, fitted, headline, mean_of
from open_mythos.train.records import EvalRecord, StepRecord
from open_mythos.train.sinks import RunInfo, logged
from open_mythos.train.symptoms import symptoms


# Steps whose mean is shown: loss and speed of single ones jump too much to be read. Warnings are
# drawn from as many.
SHOWN_STEPS = 20
# Steps that the time left is reckoned from, evaluations and saves between them included.
PACE_STEPS = 200
# Times a second that the live line is drawn.
REFRESHES = 4
BAR_WIDTH = 16
# Characters of a sample's line in a log file.
PLAIN_WIDTH = 110
DEPTH = re.compile(r"(.+)_at_(\d+)")


class ConsoleSink:
    """Shows a run to a person, and what its last steps warn of.

    On a terminal: one live line with as many numbers as its width has room for. Without one (a
    log file, a pipe): a line every recipe.log_every steps.

    Attributes:
        console: Where to write; standard error, so that standard output stays for results.
    """

    def __init__(
        self, console: Console | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Write to `console`; `now` is the clock that the time left is reckoned with."""
        self.console = console or Console(stderr=True)
        self._now = now
        self._run: RunInfo | None = None
        self._live: Live | None = None
        # Tuples, replaced whole: the thread that draws reads them at any time.
        self._recent: tuple[StepRecord, ...] = ()
        self._pace: tuple[tuple[float, int], ...] = ()
        self._began = 0.0
        self._warned: set[str] = set()

    def open(self, run: RunInfo) -> None:
        """Say what is about to run, and raise the live line on a terminal."""
        self._run, self._began = run, self._now()
        self._print(
            f"{run.recipe.name}: {run.n_parameters / 1e6:.2f}M parameters on {run.device}, "
            f"steps {run.start_step + 1} to {run.recipe.steps}, in {run.folder}"
        )
        if self.console.is_terminal:
            self._live = Live(
                console=self.console,
                get_renderable=self._drawn,
                refresh_per_second=REFRESHES,
                transient=True,
            )
            self._live.start()

    def step(self, record: StepRecord) -> None:
        """Take the numbers in, and write the line when it is due and not live."""
        assert self._run is not None, "open the sink first"
        if record.skipped:
            self.note(f"step {record.step}: skipped, its loss or gradient not finite, or a spike")
        self._recent = (*self._recent[1 - SHOWN_STEPS :], record)
        self._pace = (*self._pace[1 - PACE_STEPS :], (self._now(), record.step))
        if self._live is None and logged(record.step, self._run.recipe):
            self._print_numbers()
        self._warn(record.step)

    def evaluation(self, record: EvalRecord) -> None:
        """A line for each evaluator, and the beginning of the first sample."""
        at = f"step {record.step}{GAP}"
        room = self.console.width - len(at) if self.console.is_terminal else PLAIN_WIDTH
        for line in told(record, room):
            self._print(f"{at}{line}")

    def note(self, text: str) -> None:
        """One line."""
        self._print(text)

    def close(self) -> None:
        """Leave the live line's last numbers as a plain one; closing twice is harmless."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            if self._recent:
                self._print_numbers()

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _warn(self, step: int) -> None:
        """What the last steps warn of, each kind of it once."""
        assert self._run is not None
        if not logged(step, self._run.recipe):
            return
        for symptom in symptoms(self._recent, self._run.recipe):
            if symptom.kind not in self._warned:
                self._warned.add(symptom.kind)
                self.note(f"warning at step {step}: {symptom.text}")

    def _print_numbers(self) -> None:
        assert self._run is not None
        step = f"step {self._recent[-1].step}/{self._run.recipe.steps}"
        self._print(GAP.join([step, *(word.text for word in self._words())]))

    def _words(self) -> list[Word]:
        words = headline(mean_of(self._recent))
        left = self._seconds_left()
        return words if left is None else [*words, Word(0, f"ETA {clock(left)}")]

    def _seconds_left(self) -> float | None:
        """Time for the steps that remain at the pace of the last; None where nothing tells."""
        assert self._run is not None
        pace = self._pace
        if not pace:
            return None
        (then, first), (now, last) = pace[0], pace[-1]
        remaining = self._run.recipe.steps - last
        return (now - then) / (last - first) * remaining if remaining and last > first else None

    def _drawn(self) -> Text:
        """The live line in the width that the terminal has now."""
        assert self._run is not None
        total, recent = self._run.recipe.steps, self._recent
        done = recent[-1].step if recent else self._run.start_step
        words = [Word(0, f"{done}/{total}"), Word(8, bar(done / total, BAR_WIDTH))]
        if recent:
            words += self._words()
        words.append(Word(13, f"in {clock(self._now() - self._began)}"))
        # The last column stays free: some terminals go to the next line when it is written.
        return Text(fitted(words, self.console.width - 1), no_wrap=True, overflow="crop")


def told(record: EvalRecord, room: int = PLAIN_WIDTH) -> list[str]:
    """An evaluation in lines, one for each evaluator, scores by loops put together.

    Of the samples only the first is shown, in `room` characters.
    """
    found: dict[str, list[str]] = {}
    by_loops: dict[str, dict[str, list[str]]] = {}
    for name, value in record.values.items():
        judge, _, what = name.rpartition("/")
        words = found.setdefault(judge, [])
        match = DEPTH.fullmatch(what)
        if match:
            rows = by_loops.setdefault(judge, {}).setdefault(match[1], [])
            rows.append(f"{match[2]}: {value:.4g}")
        else:
            words.append(f"{what} {value:.4g}")
    for judge, kinds in by_loops.items():
        found[judge] += [f"{what} by loops {', '.join(rows)}" for what, rows in kinds.items()]
    lines = [GAP.join([judge, *words] if judge else words) for judge, words in found.items()]
    for text in list(record.texts.values())[:1]:
        line = f"sample{GAP}{' '.join(text.split())}"
        lines.append(line if len(line) < room else f"{line[: max(room - 4, 0)]}...")
    return lines
