"""Runs cases one after the other: guarded, within a budget, and saved after each."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from open_mythos.bench.catalogue import SUITES
from open_mythos.bench.counts import compiled_graphs, forget_compiled
from open_mythos.bench.record import Document, Figures, Row
from open_mythos.bench.suite import Case, Found, Setting, told
from open_mythos.bench.suites.ceilings import ceilings, measure
from open_mythos.errors import InputError


Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What of the suites runs.

    Attributes:
        seconds: Time for everything; None is no limit. A case that is expected to need more than
            is left is skipped, and the next, shorter one is tried.
        only: Cases whose "suite/attention/case/who" holds one of these words; empty: all.
        missing: Leave out what the document has figures of already.
    """

    seconds: float | None = None
    only: Sequence[str] = ()
    missing: bool = False


class Runner:
    """One run of the benchmark into one results file."""

    def __init__(self, document: Document, path: Path, tell: Tell, limits: Limits) -> None:
        """Add to `document`, and write it to `path` after every case; `tell` prints a line."""
        self.document, self.path, self.tell, self.limits = document, path, tell, limits
        self.began = time.perf_counter()
        self.run = 0

    def go(self, setting: Setting, suites: Sequence[str], about: dict[str, Any]) -> None:
        """Measure the ceilings, then every case of `suites`.

        Args:
            setting: Where and at what size.
            suites: Names of suites, in order.
            about: What the run's entry says of the machine and the command.
        """
        self.run = self.document.begin({**about, "size": setting.size.name})
        setting = self._with_ceilings(setting)
        for suite in suites:
            if suite == "ceilings":
                continue  # done
            for case in SUITES[suite](setting):
                if self._wanted(suite, setting, case):
                    self._case(suite, setting, case)
        self.document.runs[self.run]["seconds"] = round(time.perf_counter() - self.began, 1)
        self.document.save(self.path)

    def left(self) -> float:
        """Seconds of the budget that are left."""
        if self.limits.seconds is None:
            return math.inf
        return self.limits.seconds - (time.perf_counter() - self.began)

    def _with_ceilings(self, setting: Setting) -> Setting:
        kept: list[Found] = []

        def run() -> Any:
            for found in measure(setting):
                kept.append(found)
                yield found

        self._case("ceilings", setting, Case("ceilings", "torch", run, seconds=0))
        try:
            return replace(setting, ceilings=ceilings(kept))
        except InputError as error:
            self.tell(f"no ceilings, so no shares of them: {error}")
            return setting

    def _wanted(self, suite: str, setting: Setting, case: Case) -> bool:
        label = f"{suite}/{case.attn}/{case.part}"
        if self.limits.only and not any(word in label for word in self.limits.only):
            return False
        if not self.limits.missing:
            return True
        mine = (suite, setting.size.name, case.attn, case.part)
        return not any(
            row.status == "ok" and (row.suite, row.size, row.attn, row.part) == mine
            for row in self.document.rows.values()
        )

    def _case(self, suite: str, setting: Setting, case: Case) -> None:
        if self.left() < case.seconds:
            note = f"{case.seconds:.0f} s needed, {max(self.left(), 0):.0f} s left"
            found = Found(case=case.name, who=case.who, figures={}, note=note)
            self._put(suite, setting, case, found, "skipped")
            return
        began, graphs = time.perf_counter(), compiled_graphs()
        self.tell(f"{suite} {case.attn} {case.name} {case.who} ...")
        setting.clock.clean()
        try:
            for found in case.run():
                wrong = nonsense(found.figures) or ("" if found.figures else found.note)
                if wrong:
                    found = replace(found, figures={}, note=wrong)
                self._put(suite, setting, case, found, "error" if wrong else "ok")
        except Exception as error:  # noqa: BLE001 -- whatever fails in one case, the others go on
            found = Found(case=case.name, who=case.who, figures={}, note=told(error))
            self._put(suite, setting, case, found, "error")
        if compiled_graphs() > graphs:  # the next case's variants count anew
            forget_compiled()
        self.tell(f"    {time.perf_counter() - began:.1f} s")
        self.document.save(self.path)

    def _put(self, suite: str, setting: Setting, case: Case, found: Found, status: Any) -> None:
        row = Row(
            suite=suite,
            size=setting.size.name,
            attn=case.attn,
            status=status,
            run=self.run,
            part=case.part,
            **vars(found),
        )
        self.document.put(row)
        said = ", ".join(f"{k} {f.value:.5g} {f.unit}" for k, f in found.figures.items())
        said = said or f"{status}: {found.note}"
        self.tell(
            f"  [{self.elapsed:4.0f} s] {suite} {case.attn} {found.case} | {found.who}: {said}"
        )

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.began


def nonsense(figures: Figures) -> str:
    """What is wrong with the figures; empty if every one is a finite number."""
    bad = [name for name, figure in figures.items() if not math.isfinite(figure.value)]
    return f"not finite: {', '.join(bad)}" if bad else ""
