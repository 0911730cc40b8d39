"""How the suite's cells get on, for a person: bars on a terminal, lines everywhere else."""

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from open_mythos.suite.plan import Cell, Plan
from open_mythos.suite.pool import End


class ConsoleBoard:
    """One bar over all steps and one for each cell that runs; without a terminal, lines.

    Attributes:
        console: Where to write.
        progress: The bars.
        ended: Cells that are over.
    """

    def __init__(self, plan: Plan, console: Console) -> None:
        self.console = console
        self.ended = 0
        self._cells = len(plan.cells)
        self._done = dict.fromkeys((cell.name for cell in plan.cells), 0)
        self._bars: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        steps = sum(cell.recipe.steps for cell in plan.cells)
        self._all = self.progress.add_task("all steps", total=steps)

    def __enter__(self) -> "ConsoleBoard":
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def start(self, cell: Cell) -> None:
        """A bar for the cell."""
        self._bars[cell.name] = self.progress.add_task(cell.name, total=cell.recipe.steps)

    def step(self, cell: Cell, done: int) -> None:
        """Move both bars."""
        self.progress.advance(self._all, done - self._done[cell.name])
        self._done[cell.name] = done
        self.progress.update(self._bars[cell.name], completed=done)

    def end(self, cell: Cell, end: End, why: str) -> None:
        """A line that stays, in place of the cell's bar."""
        self.ended += 1
        self.progress.remove_task(self._bars.pop(cell.name))
        reason = f": {why}" if why else f" at step {self._done[cell.name]}"
        self.console.print(
            f"{self.ended}/{self._cells}  {cell.name}  {end}{reason}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
